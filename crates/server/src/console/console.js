// Live parts of the console's pages. Without this script every page works when it is loaded again.
"use strict";

(() => {
  const main = document.querySelector("main[data-live]");
  const status = document.getElementById("live-status");
  const pause = document.getElementById("live-pause");
  if (!main || !status) return;
  let paused = false;
  const waiting = new Map();

  const say = (text) => {
    if (status.textContent !== text) status.textContent = text;
  };

  // What a person is using is not taken from under the fingers: it is shown once the focus has left.
  const inUse = (region) => region.contains(document.activeElement);

  const show = (id, html) => {
    const region = document.getElementById(id);
    if (!region) return;
    if (paused || inUse(region)) {
      waiting.set(id, html);
      return;
    }
    const known = new Set(Array.from(region.querySelectorAll("[data-row]"), (row) => row.dataset.row));
    // Made and escaped by the server.
    region.innerHTML = html;
    for (const row of region.querySelectorAll("[data-row]")) {
      if (!known.has(row.dataset.row)) row.classList.add("fresh");
    }
  };

  const flush = () => {
    const held = Array.from(waiting);
    waiting.clear();
    for (const [id, html] of held) show(id, html);
  };

  const source = new EventSource("/console/events/" + main.dataset.live);
  source.addEventListener("open", () => say(paused ? "Paused." : "Live."));
  source.addEventListener("region", (event) => {
    const { id, html } = JSON.parse(event.data);
    show(id, html);
  });
  source.addEventListener("end", () => {
    source.close();
    location.assign("/console/login");
  });
  source.addEventListener("error", () => {
    say(source.readyState === EventSource.CLOSED ? "Not live: load the page again." : "Connection lost, trying again.");
  });
  document.addEventListener("focusout", () => setTimeout(flush, 0));
  window.addEventListener("pagehide", () => source.close());

  if (pause) {
    pause.hidden = false;
    pause.addEventListener("click", () => {
      paused = !paused;
      pause.textContent = paused ? "Go on" : "Pause";
      pause.setAttribute("aria-pressed", String(paused));
      say(paused ? "Paused." : "Live.");
      if (!paused) flush();
    });
  }
})();

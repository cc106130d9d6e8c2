//! A headless Chromium, driven by chromedriver.

use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// chromedriver as a process.
pub struct Driver {
    child: Child,
    port: u16,
    profile: tempfile::TempDir,
    /// Read from no more, but not closed: it may want to say something.
    _said: Lines<BufReader<ChildStdout>>,
}

impl Driver {
    /// Starts it; nothing where it or Chromium is missing.
    pub fn start() -> Option<Self> {
        let here = |name: &str| {
            let found = Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
            if !found {
                let _ = writeln!(std::io::stderr(), "SKIPPED: {name} (Debian: chromium, chromium-driver) is not here");
            }
            found
        };
        if !here("chromium") || !here("chromedriver") {
            return None;
        }
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        // What it leaves behind lies in a directory that is removed.
        command.env("TMPDIR", profile.path()).env("HOME", profile.path());
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = said
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.rsplit_once("successfully on port ")?.1.trim_end_matches('.').parse().ok());
        Some(Self { child, port: port.unwrap(), profile, _said: said })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // So that it ends its browsers.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What only chromedriver knows.
#[derive(Debug)]
struct Own(&'static str, Value);

impl WebDriverCompatibleCommand for Own {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.0))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.1.to_string()))
    }
}

/// A window.
pub struct Browser {
    client: Client,
    url: String,
}

impl Browser {
    pub async fn open(driver: &Driver, url: &str) -> Self {
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--hide-scrollbars",
            &format!("--user-data-dir={}", driver.profile.path().display()),
        ];
        // The backend's certificate is one of its own.
        let wanted = json!({
            "acceptInsecureCerts": true,
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let Value::Object(capabilities) = wanted else { panic!("not an object") };
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(Capabilities::from_iter(capabilities));
        let client = builder.connect(&format!("http://127.0.0.1:{}", driver.port)).await.unwrap();
        let browser = Self { client, url: url.to_owned() };
        browser.width(1280, 900, false).await;
        browser
    }

    /// Sets the size that pages see.
    pub async fn width(&self, width: u32, height: u32, mobile: bool) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile });
        let command = json!({ "cmd": "Emulation.setDeviceMetricsOverride", "params": size });
        self.client.issue_cmd(Own("goog/cdp/execute", command)).await.unwrap();
    }

    /// Pages in dark or light colours.
    pub async fn dark(&self, dark: bool) {
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        let command = json!({ "cmd": "Emulation.setEmulatedMedia", "params": media });
        self.client.issue_cmd(Own("goog/cdp/execute", command)).await.unwrap();
    }

    /// Where a link with this text leads.
    pub async fn link(&self, text: &str) -> String {
        let link = self.client.find(Locator::LinkText(text)).await.unwrap();
        link.attr("href").await.unwrap().unwrap()
    }

    pub async fn go(&self, place: &str) {
        self.client.goto(&format!("{}{place}", self.url)).await.unwrap();
    }

    /// Path of the page.
    pub async fn place(&self) -> String {
        self.client.current_url().await.unwrap().path().to_owned()
    }

    pub async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Waits until a script says true.
    pub async fn wait_for(&self, what: &str, script: &str) {
        let start = Instant::now();
        // Between two pages there is none to ask.
        while self.client.execute(script, Vec::new()).await.ok() != Some(Value::Bool(true)) {
            if start.elapsed() > Duration::from_secs(120) {
                panic!("waited too long for {what}: {}", self.text("body").await);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub async fn text(&self, selector: &str) -> String {
        self.client.find(Locator::Css(selector)).await.unwrap().text().await.unwrap()
    }

    /// Presses keys where the focus is.
    pub async fn keys(&self, keys: &str) {
        self.client.active_element().await.unwrap().send_keys(keys).await.unwrap();
    }

    pub async fn keys_to(&self, selector: &str, keys: &str) {
        self.client.find(Locator::Css(selector)).await.unwrap().send_keys(keys).await.unwrap();
    }

    /// Fills a field; one for files takes a path.
    pub async fn fill(&self, selector: &str, text: &str) {
        self.keys_to(selector, text).await;
    }

    pub async fn click(&self, selector: &str) {
        self.client.find(Locator::Css(selector)).await.unwrap().click().await.unwrap();
    }

    /// Writes what is seen into `target/tmp/console/NAME.png`.
    pub async fn screenshot(&self, name: &str) {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("console");
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join(format!("{name}.png")), self.client.screenshot().await.unwrap()).unwrap();
    }

    /// What the browser logged since this was asked: errors, refused content.
    pub async fn log(&self) -> Vec<String> {
        let entries = self.client.issue_cmd(Own("se/log", json!({ "type": "browser" }))).await.unwrap();
        entries.as_array().unwrap().iter().map(Value::to_string).collect()
    }

    pub async fn close(self) {
        self.client.close().await.unwrap();
    }
}

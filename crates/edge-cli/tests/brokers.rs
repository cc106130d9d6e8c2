//! `subrosa-edge run` with message brokers: a real NATS server, its JetStream and its MQTT listener. Skipped where `nats-server` is not installed.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

#[path = "../../edge-service/tests/common/mod.rs"]
mod common;

use async_nats::jetstream;
use common::{Agent, Nats, Stub, TestOwner, samples, wait_at_most, wait_for};
use rumqttc::{AsyncClient, Event, MqttOptions, Outgoing, Packet, QoS};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const PROGRAM: &str = env!("CARGO_BIN_EXE_subrosa-edge");

fn backend(place: &Path) -> Stub {
    let owner = TestOwner::new(&place.join("home"));
    let stub = Stub::start(owner.signer());
    let bundle = place.join("first.srb");
    let model = owner.bundle(&bundle);
    stub.deploy(1, &model.0, model.1, &bundle);
    stub
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn labels(stub: &Stub) -> BTreeSet<String> {
    stub.world().results.values().map(|a| a.result.statement.label.clone()).collect()
}

#[test]
fn workers_share_the_samples_and_a_killed_one_or_a_killed_server_loses_none() {
    const SAMPLES: usize = 400;
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    let Some(mut nats) = Nats::start(&place.join("nats")) else { return };
    let mut stub = backend(place);
    let table = format!("[nats]\nurl = \"{}\"\n", nats.url());
    let source = "[[source.directory]]\npath = \"in\"\nscan_seconds = 0.1\nsettle_seconds = 0.05\n";
    let mut acquirer =
        Agent::new(PROGRAM, &place.join("acquirer"), &stub, &format!("{table}[acquirer]\nstream = \"work\"\n{source}"));
    std::fs::create_dir(acquirer.path("in")).unwrap();
    let worker = format!("{table}[worker]\nstream = \"work\"\nack_wait_seconds = 1\nhold = 8\n");
    let mut workers = ["one", "two"].map(|name| Agent::new(PROGRAM, &place.join(name), &stub, &worker));
    // The workers wait for the queue that the acquirer makes.
    workers.iter_mut().for_each(Agent::start);
    acquirer.start();
    for (i, part) in samples(SAMPLES).chunks(40).enumerate() {
        common::npy(&acquirer.path(&format!("in/{i}.npy")), part);
    }
    wait_for("some results", || stub.stored() >= 60);
    workers[0].kill();
    wait_for("more results", || stub.stored() >= 120);
    nats.kill();
    acquirer.kill();
    nats.restart();
    acquirer.start();
    stub.restart();
    wait_for("more results", || stub.stored() >= 200);
    workers[0].start();
    wait_for("all results", || stub.stored() == SAMPLES);
    assert_eq!((stub.stored(), labels(&stub).len(), stub.world().conflicts), (SAMPLES, SAMPLES, 0));
    let mut by_device: BTreeMap<String, usize> = BTreeMap::new();
    for arrived in stub.world().results.values() {
        let statement = &arrived.result.statement;
        assert!(statement.origin != statement.device);
        *by_device.entry(statement.device.clone()).or_default() += 1;
    }
    assert_eq!(by_device.len(), 2, "{by_device:?}");
    // Everything is acknowledged in the end: the queue is empty.
    let runtime = runtime();
    let mut stream = runtime.block_on(async {
        let client = async_nats::connect(nats.url()).await.unwrap();
        jetstream::new(client).get_stream("work").await.unwrap()
    });
    // What a killed worker held is handed out again only after a while.
    wait_at_most(180, "the work queue to be empty", || {
        runtime.block_on(async { stream.info().await.unwrap().state.messages == 0 })
    });
    assert_eq!((stub.stored(), stub.world().conflicts), (SAMPLES, 0));
    assert_eq!(acquirer.terminate(), 0);
    assert!(workers.iter_mut().all(|w| w.terminate() == 0));
}

#[test]
fn a_jetstream_subject_is_consumed_once_each_across_kills() {
    const MESSAGES: usize = 120;
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    let Some(nats) = Nats::start(&place.join("nats")) else { return };
    let stub = backend(place);
    let url = nats.url();
    runtime().block_on(async {
        let client = async_nats::connect(url).await.unwrap();
        let context = jetstream::new(client);
        let config = jetstream::stream::Config { name: "S".into(), subjects: vec!["s.>".into()], ..Default::default() };
        context.create_stream(config).await.unwrap();
        for (i, row) in samples(MESSAGES).into_iter().enumerate() {
            let text = serde_json::to_string(&row).unwrap();
            context.publish(format!("s.{}", i % 3), text.into()).await.unwrap().await.unwrap();
        }
        context.publish("s.bad", "nonsense".into()).await.unwrap().await.unwrap();
    });
    let more = format!(
        "[nats]\nurl = \"{}\"\n[[source.nats]]\nsubject = \"s.>\"\nstream = \"S\"\nack_wait_seconds = 1\n",
        nats.url()
    );
    let mut agent = Agent::new(PROGRAM, &place.join("agent"), &stub, &more);
    for goal in [10, 40, 70] {
        agent.start();
        wait_for("some results", || stub.stored() >= goal);
        agent.kill();
    }
    agent.start();
    wait_for("all results", || stub.stored() == MESSAGES);
    wait_for("the queue to be empty", || stub.status().is_some_and(|s| s.queued == 0));
    assert_eq!((labels(&stub).len(), stub.world().conflicts), (MESSAGES, 0));
    assert!(agent.log().contains("message refused"), "{}", agent.log());
    assert_eq!(agent.terminate(), 0);
}

#[test]
fn mqtt_messages_arrive_and_those_with_an_id_once_each_across_a_kill() {
    const MESSAGES: usize = 40;
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    let Some(nats) = Nats::start(&place.join("nats")) else { return };
    let stub = backend(place);
    let port = nats.mqtt_port();
    let more =
        format!("[[source.mqtt]]\nurl = \"mqtt://127.0.0.1:{port}\"\ntopic = \"sensors/#\"\nclient_id = \"edge\"\n");
    let mut agent = Agent::new(PROGRAM, &place.join("agent"), &stub, &more);
    // Its session begins with its first connection.
    agent.start();
    wait_for("the first message", || {
        publish(port, &[serde_json::json!({"id": "first", "data": samples(1)[0]}).to_string()]);
        stub.stored() == 1
    });
    agent.kill();
    let rows = samples(MESSAGES).into_iter().enumerate();
    let texts: Vec<String> =
        rows.map(|(i, row)| serde_json::json!({"id": i.to_string(), "data": row}).to_string()).collect();
    publish(port, &texts);
    agent.start();
    wait_for("some results", || stub.stored() >= 8);
    agent.kill();
    agent.start();
    // The server hands out again what a killed agent held after half a minute, for each kill.
    wait_at_most(180, "all results", || stub.stored() == MESSAGES + 1);
    assert_eq!((labels(&stub).len(), stub.world().conflicts), (MESSAGES + 1, 0));
    assert_eq!(agent.terminate(), 0);
}

/// Publishes at QoS 1 and waits for all acknowledgements.
fn publish(port: u16, texts: &[String]) {
    runtime().block_on(async {
        let mut options = MqttOptions::new("publisher", "127.0.0.1", port);
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut events) = AsyncClient::new(options, texts.len() + 1);
        for text in texts {
            client.publish("sensors/a", QoS::AtLeastOnce, false, text.as_str()).await.unwrap();
        }
        let mut acknowledged = 0;
        while acknowledged < texts.len() {
            match events.poll().await.unwrap() {
                Event::Incoming(Packet::PubAck(_)) => acknowledged += 1,
                Event::Outgoing(Outgoing::Disconnect) => panic!("disconnected"),
                _ => {}
            }
        }
    });
}

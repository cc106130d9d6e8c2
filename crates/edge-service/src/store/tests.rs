use super::*;
use crate::config::Queue;

struct Place {
    directory: tempfile::TempDir,
    metrics: Arc<Metrics>,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), metrics: Arc::default() }
    }

    fn open(&self, limits: Queue) -> (Store, JoinHandle<()>) {
        let key = DeviceKey::load_or_create(&self.directory.path().join("key")).unwrap();
        let device = Device { id: "d1".into(), key };
        let path = self.directory.path().join("queue.db");
        Store::open(&path, device, limits, Arc::clone(&self.metrics), CancellationToken::new()).unwrap()
    }
}

fn about(position: &str) -> About {
    About::new(&Arc::from("test"), position, position)
}

fn result() -> Outcome {
    Outcome::Result { model: "m".into(), version: 1, payload: vec![7; 100] }
}

async fn finish(store: &Store, about: About, outcome: Outcome) -> Fate {
    let (done, fate) = oneshot::channel();
    store.finish(Finish { about, outcome, done, settled: None, _permit: None });
    fate.await.unwrap()
}

#[tokio::test]
async fn results_and_sequence_numbers_survive_and_none_is_given_twice() {
    let place = Place::new();
    let (store, thread) = place.open(Queue::default());
    assert_eq!(store.run, 1);
    for i in 0..3 {
        assert!(matches!(finish(&store, about(&i.to_string()), result()).await, Fate::Queued(_)));
    }
    let Fate::Queued(known) = finish(&store, about("x"), result()).await else { panic!() };
    assert_eq!(finish(&store, about("x"), result()).await, Fate::Repeated(Some(known)));
    assert_eq!(finish(&store, about("y"), Outcome::Rejected("no".into())).await, Fate::Rejected("no".into()));
    let first = store.oldest(2, u64::MAX).await.unwrap();
    assert_eq!(first.iter().map(|q| q.sequence).collect::<Vec<_>>(), [1, 2]);
    store.settle(vec![1, 2, 2, 99]).await.unwrap();
    drop(store);
    thread.join().unwrap();

    let (store, _thread) = place.open(Queue::default());
    assert_eq!((store.run, place.metrics.queued.get()), (2, 2));
    assert!(matches!(finish(&store, about("z"), result()).await, Fate::Queued(_)));
    let rest = store.oldest(10, u64::MAX).await.unwrap();
    assert_eq!(rest.iter().map(|q| q.sequence).collect::<Vec<_>>(), [3, 4, 5]);
    let key = DeviceKey::load_or_create(&place.directory.path().join("key")).unwrap().public();
    for queued in rest {
        let result = SignedResult::decode(&queued.record).unwrap();
        result.verify(&key).unwrap();
        assert_eq!((result.statement.sequence, result.statement.result_id()), (queued.sequence, queued.result));
    }
    let seen = store.seen(vec![about("0").id, about("x").id, about("y").id, about("new").id]).await.unwrap();
    let queued = |i: usize| seen[i].map(|s| s.queued);
    assert_eq!([queued(0), queued(1), queued(2), queued(3)], [Some(None), Some(Some(4)), Some(None), None]);
}

#[tokio::test]
async fn nothing_is_kept_where_nobody_waits() {
    let place = Place::new();
    let (store, _thread) = place.open(Queue::default());
    let (done, fate) = oneshot::channel();
    drop(fate);
    store.finish(Finish { about: about("a"), outcome: result(), done, settled: None, _permit: None });
    assert_eq!(store.seen(vec![about("a").id]).await.unwrap(), [None]);
    assert!(store.oldest(1, u64::MAX).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_oldest_give_way_by_number_and_by_size() {
    let place = Place::new();
    for (max_results, max_bytes) in [(3, u64::MAX), (u64::MAX, 2000)] {
        let limits = Queue { policy: Policy::ShedOldest, max_results, max_bytes, ..Queue::default() };
        let (store, _thread) = place.open(limits);
        for i in 0..10 {
            finish(&store, about(&format!("{max_results} {i}")), result()).await;
        }
        let left = store.oldest(100, u64::MAX).await.unwrap();
        let bytes: u64 = left.iter().map(|q| q.record.len() as u64).sum();
        assert!(left.len() as u64 <= max_results && bytes <= max_bytes && !left.is_empty());
        assert_eq!((place.metrics.queued.get(), place.metrics.queued_bytes.get()), (left.len() as u64, bytes));
        // The newest are left.
        assert!(left.windows(2).all(|w| w[0].sequence + 1 == w[1].sequence));
        let shed = place.metrics.shed_oldest.get();
        let last = finish(&store, about(&format!("{max_results} last")), result()).await;
        assert!(matches!(last, Fate::Queued(_)) && place.metrics.shed_oldest.get() == shed + 1);
        // A batch has at least one result, however small it must be.
        assert_eq!(store.oldest(100, 1).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn whoever_waits_for_a_receipt_is_told() {
    let place = Place::new();
    let (store, _thread) = place.open(Queue::default());
    let ((done, fate), (settled, receipt)) = (oneshot::channel(), oneshot::channel());
    store.finish(Finish { about: about("a"), outcome: result(), done, settled: Some(settled), _permit: None });
    fate.await.unwrap();
    let (late, late_receipt) = oneshot::channel();
    store.attach(1, late);
    let (gone, gone_receipt) = oneshot::channel();
    store.attach(77, gone);
    gone_receipt.await.unwrap();
    let mut receipt = Box::pin(receipt);
    assert!(futures_util::poll!(&mut receipt).is_pending());
    store.settle(vec![1]).await.unwrap();
    receipt.await.unwrap();
    late_receipt.await.unwrap();
}

#[tokio::test]
async fn files_stand_for_their_samples() {
    let place = Place::new();
    let (store, _thread) = place.open(Queue::default());
    let file = FileState { name: "f".into(), size: 1, changed: 2, kept: true };
    let sample = About { file: Some("key".into()), ..about("f 0") };
    finish(&store, sample.clone(), result()).await;
    store.file_done("s", file.clone(), "key").await.unwrap();
    assert_eq!(store.seen(vec![sample.id]).await.unwrap(), [None]);
    assert_eq!(store.files("s").await.unwrap(), [file]);
    store.forget_files("s", vec!["f".into()]).await.unwrap();
    assert!(store.files("s").await.unwrap().is_empty());
    let far = About { progress: Some(9), ..about("p") };
    finish(&store, far, result()).await;
    finish(&store, About { progress: Some(4), ..about("q") }, result()).await;
    assert_eq!(store.progress("test").await.unwrap(), 9);
}

#[test]
fn another_programs_database_and_a_damaged_one_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let foreign = directory.path().join("foreign.db");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
    assert!(database::open(&foreign).unwrap_err().contains("another program's"));
    let damaged = directory.path().join("damaged.db");
    std::fs::write(&damaged, [b'x'; 5000]).unwrap();
    assert!(database::open(&damaged).unwrap_err().contains("is damaged"));
}

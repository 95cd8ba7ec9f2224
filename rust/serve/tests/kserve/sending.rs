//! Owns: batches on their way to real servers: which one, how many, once more, never again, and how they end.
//! Must not know: how a batch is made.
//! On failure: the test fails; every wait has a bound.

use std::sync::Arc;
use std::time::Duration;

use forebay_core::batch::{Capacity, LaneSettings};
use forebay_serve::kserve::pb::{ServerLiveRequest, ServerLiveResponse};
use forebay_serve::kserve::{Doubt, Route, ServerAddress, ServerTls, send};
use tonic::{Code, Status};

use super::held_server::HeldServer;
use super::rig::*;

fn plain(address: &str) -> (ServerAddress, bool) {
    (ServerAddress { address: address.to_owned(), tls: None }, true)
}

/// A bench that sends to these servers, each with at most `most` batches of `echo` at once.
async fn sending(servers: &[&HeldServer], most: u32, resends: u32) -> Bench {
    let bench = Bench::start().await;
    let addresses: Vec<String> = servers.iter().map(|server| server.address.to_string()).collect();
    let upstreams = bench.queue.upstreams();
    upstreams.set("pool", addresses.iter().map(|address| plain(address)).collect()).unwrap();
    let listed = addresses.iter().map(|address| (address.as_str().into(), most)).collect();
    upstreams.set_route(&lane("echo"), Route { servers: listed, resends });
    let instances = u32::try_from(servers.len()).unwrap().max(1) * most;
    let settings = LaneSettings::of(Capacity { instances, slots: instances });
    bench.queue.set_model(&lane("echo"), shape(), &settings);
    tokio::spawn(send(Arc::clone(&bench.queue)));
    bench
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_answered_or_fails_in_the_servers_words() {
    let mut server = HeldServer::start().await;
    let bench = sending(&[&server], 1, 1).await;
    let task = bench.begin(marked(ints("echo", 2, 5))).await;
    assert!(server.asked().await.echo());
    assert_eq!(within(task).await.unwrap().unwrap().raw_output_contents, [raw(2, 5)]);
    let task = bench.begin(marked(ints("echo", 2, 5))).await;
    server.asked().await.fail(Status::failed_precondition("the model says no"));
    let status = within(task).await.unwrap().unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "the model says no"));
    assert_eq!(bench.queue.sent().failures.into_iter().collect::<Vec<_>>(), [("FAILED_PRECONDITION", 1)]);
    assert!(bench.metric_line("forebay_sender_failures_total{code=\"FAILED_PRECONDITION\"} 1"));
    assert!(bench.queue.doubted_blocking(Duration::ZERO).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_on_their_way_are_bounded() {
    let bench = sending(&[], 1, 0).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    bench.queue.upstreams().set("pool", vec![plain(&silent.local_addr().unwrap().to_string())]).unwrap();
    let client = bench.client().await;
    let asked: Vec<_> = (0..17)
        .map(|_| {
            let mut client = client.clone();
            let live = async move {
                client.call::<_, ServerLiveResponse>("ServerLive", marked(ServerLiveRequest {})).await
            };
            tokio::spawn(live)
        })
        .collect();
    // 16 may be open, so that exactly one of them ends before the queue does.
    let (refused, open) = first_of(asked).await;
    assert!(refused.unwrap_err().message().starts_with("16 calls wait"));
    assert_eq!(open.len(), 16);
    let queue = Arc::clone(&bench.queue);
    within(tokio::task::spawn_blocking(move || queue.drain_blocking(Duration::ZERO))).await.unwrap();
    for task in open {
        assert_eq!(within(task).await.unwrap().unwrap_err().code(), Code::Unavailable);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_batch_is_sent_once_more_and_never_twice() {
    let (mut first, mut second) = (HeldServer::start().await, HeldServer::start().await);
    let bench = sending(&[&first, &second], 1, 1).await;
    let task = bench.begin(marked(ints("echo", 1, 3))).await;
    let lost = first_asked(&mut first, &mut second).await;
    lost.fail(Status::unavailable("broken"));
    assert!(first_asked(&mut first, &mut second).await.echo());
    assert_eq!(within(task).await.unwrap().unwrap().raw_output_contents, [raw(1, 3)]);
    let sent = bench.queue.sent();
    assert_eq!((sent.resends, sent.failures.len()), (1, 0));
    let doubted = bench.queue.doubted_blocking(Duration::ZERO);
    assert!(matches!(doubted.as_slice(), [Doubt { code: Code::Unavailable, .. }]), "{doubted:?}");
    // Both have failed now, so that there is nowhere to go after the next one.
    let task = bench.begin(marked(ints("echo", 1, 3))).await;
    first_asked(&mut first, &mut second).await.fail(Status::unavailable("broken"));
    let status = within(task).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.metadata().contains_key("retry-after"));
    assert!(!status.message().contains("127.0.0.1"), "{status}");
    assert!(first.is_idle() && second.is_idle());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_must_not_see_a_request_twice_does_not() {
    let (mut first, mut second) = (HeldServer::start().await, HeldServer::start().await);
    let bench = sending(&[&first, &second], 1, 0).await;
    let task = bench.begin(marked(ints("echo", 1, 3))).await;
    first_asked(&mut first, &mut second).await.fail(Status::unavailable("broken"));
    assert_eq!(within(task).await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert!(first.is_idle() && second.is_idle());
    assert_eq!(bench.queue.sent().resends, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_be_reached_has_seen_nothing() {
    let gone = HeldServer::start().await.address.to_string();
    let mut there = HeldServer::start().await;
    let bench = sending(&[&there], 1, 0).await;
    let both = vec![plain(&gone), plain(&there.address.to_string())];
    bench.queue.upstreams().set("pool", both).unwrap();
    bench.queue.upstreams().set_route(&lane("echo"), Route::default());
    for value in 0..2 {
        let task = bench.begin(marked(ints("echo", 1, value))).await;
        assert!(there.asked().await.echo());
        within(task).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_has_no_more_batches_than_it_may_and_the_least_tokens_win() {
    let (mut first, mut second) = (HeldServer::start().await, HeldServer::start().await);
    let bench = sending(&[&first, &second], 1, 0).await;
    // The queue lets three go at once, of which one finds no room.
    let settings = LaneSettings::of(Capacity { instances: 3, slots: 3 });
    bench.queue.set_model(&lane("echo"), shape(), &settings);
    let mut tasks = Vec::new();
    for sent in 1..=3 {
        tasks.push(bench.begin(marked(ints("echo", 8, 1))).await);
        bench.until(|queue| queue.stats().in_flight == sent).await;
    }
    let (one, other) = (first.asked().await, second.asked().await);
    assert!(first.is_idle() && second.is_idle());
    one.echo();
    let third = first.asked().await;
    other.echo();
    third.echo();
    for task in tasks {
        within(task).await.unwrap().unwrap();
    }
    // Room for two on each: a large one goes to one server, and two small ones to the other.
    for server in [&first, &second] {
        let both = [&first, &second].map(|server| (server.address.to_string().into(), 2)).to_vec();
        bench.queue.upstreams().set_route(&lane("echo"), Route { servers: both, resends: 0 });
        assert!(bench.metric_line(&format!("endpoint=\"{}\"}} 0", server.address)));
    }
    let large = bench.begin(marked(ints("echo", 8, 1))).await;
    bench.until(|queue| queue.stats().in_flight == 1).await;
    let held = first_asked(&mut first, &mut second).await;
    let (full, free) = match held.request.id.as_str() {
        _ if bench.metric_line(&format!("endpoint=\"{}\"}} 8", first.address)) => (&mut first, &mut second),
        _ => (&mut second, &mut first),
    };
    let small = bench.begin(marked(ints("echo", 1, 1))).await;
    let one = free.asked().await;
    let again = bench.begin(marked(ints("echo", 1, 2))).await;
    let two = free.asked().await;
    assert!(full.is_idle());
    for asked in [held, one, two] {
        assert!(asked.echo());
    }
    for task in [large, small, again] {
        within(task).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_ready_gets_nothing_while_there_is_another() {
    let (mut first, mut second) = (HeldServer::start().await, HeldServer::start().await);
    let bench = sending(&[&first, &second], 4, 0).await;
    let (away, there) = (plain(&first.address.to_string()).0, plain(&second.address.to_string()));
    bench.queue.upstreams().set("pool", vec![(away, false), there]).unwrap();
    for value in 0..3 {
        let task = bench.begin(marked(ints("echo", 1, value))).await;
        assert!(second.asked().await.echo());
        within(task).await.unwrap().unwrap();
    }
    assert!(first.is_idle());
    bench.queue.upstreams().set("pool", vec![(plain(&first.address.to_string()).0, false)]).unwrap();
    let task = bench.begin(marked(ints("echo", 1, 9))).await;
    assert!(first.asked().await.echo(), "the only server was not tried");
    within(task).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_the_call_and_nothing_is_sent_after_it() {
    let (mut first, mut second) = (HeldServer::start().await, HeldServer::start().await);
    let bench = sending(&[&first, &second], 1, 1).await;
    let mut request = marked(ints("echo", 1, 3));
    request.set_timeout(Duration::from_millis(100));
    let task = bench.begin(request).await;
    let asked = first_asked(&mut first, &mut second).await;
    let status = within(task).await.unwrap().unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
    asked.given_up().await;
    bench.until(|queue| queue.stats().in_flight == 0).await;
    assert!(first.is_idle() && second.is_idle());
    assert_eq!(bench.queue.sent().resends, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_and_a_pool_without_servers_are_told() {
    let bench = sending(&[], 1, 0).await;
    let status = bench.client().await.infer(ints("echo", 1, 1)).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "pool `pool` has no server; try again later")
    );
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    bench.queue.upstreams().set("pool", vec![plain(&address)]).unwrap();
    let mut request = marked(ints("echo", 1, 1));
    request.set_timeout(Duration::from_millis(50));
    let status = within(bench.begin(request).await).await.unwrap().unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_batch_leaves_in_halves_and_its_server_is_doubted() {
    let mut server = HeldServer::start().await;
    let bench = sending(&[&server], 1, 1).await;
    let first = bench.begin(marked(ints("echo", 1, 0))).await;
    let held = server.asked().await;
    let tasks =
        [bench.begin(marked(ints("echo", 1, 1))).await, bench.begin(marked(ints("echo", 1, 2))).await];
    bench.until_waiting(2).await;
    held.echo();
    within(first).await.unwrap().unwrap();
    let both = server.asked().await;
    assert_eq!(both.rows(), 2);
    both.fail(Status::invalid_argument("one of them"));
    for _ in 0..2 {
        let half = server.asked().await;
        assert_eq!(half.rows(), 1);
        half.echo();
    }
    for task in tasks {
        within(task).await.unwrap().unwrap();
    }
    let doubted = bench.queue.doubted_blocking(Duration::ZERO);
    assert!(matches!(doubted.as_slice(), [Doubt { code: Code::InvalidArgument, .. }]), "{doubted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_answers_everything_once() {
    let mut server = HeldServer::start().await;
    let bench = sending(&[&server], 1, 1).await;
    let sent = bench.begin(marked(ints("echo", 8, 1))).await;
    let asked = server.asked().await;
    let waiting = bench.begin(marked(ints("echo", 8, 2))).await;
    bench.until_waiting(1).await;
    let queue = Arc::clone(&bench.queue);
    let drained = tokio::task::spawn_blocking(move || queue.drain_blocking(BOUND));
    assert_eq!(within(waiting).await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert!(asked.echo(), "what was sent was given up before its time");
    within(sent).await.unwrap().unwrap();
    assert!(within(drained).await.unwrap());
    assert_eq!(bench.ends().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_gives_up_what_is_late() {
    let mut server = HeldServer::start().await;
    let bench = sending(&[&server], 1, 1).await;
    let sent = bench.begin(marked(ints("echo", 8, 1))).await;
    let asked = server.asked().await;
    let queue = Arc::clone(&bench.queue);
    let drained = tokio::task::spawn_blocking(move || queue.drain_blocking(Duration::ZERO));
    assert!(!within(drained).await.unwrap());
    assert_eq!(within(sent).await.unwrap().unwrap_err().code(), Code::Unavailable);
    asked.given_up().await;
    assert_eq!((bench.queue.stats().in_flight, bench.ends().len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_spoken_where_it_is_set() {
    let mut server = HeldServer::start().await;
    let bench = sending(&[&server], 1, 0).await;
    let address = server.address.to_string();
    let tls = |tls| vec![(ServerAddress { address: address.clone(), tls: Some(tls) }, true)];
    let broken = ServerTls { sni: "triton.internal".to_owned(), ca_pem: Some("no pem".into()) };
    let error = bench.queue.upstreams().set("pool", tls(broken)).unwrap_err().to_string();
    assert_eq!(error, format!("the authorities of `{address}` hold no certificate; give them as PEM"));
    assert!(bench.queue.upstreams().set("pool", vec![plain("not an address")]).is_err());
    let task = bench.begin(marked(ints("echo", 1, 1))).await;
    assert!(server.asked().await.echo(), "a pool lost its servers to wrong ones");
    within(task).await.unwrap().unwrap();
    let system = ServerTls { sni: "triton.internal".to_owned(), ca_pem: None };
    bench.queue.upstreams().set("pool", tls(system)).unwrap();
    let status = bench.client().await.infer(ints("echo", 1, 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "plain text was spoken: {status:?}");
}

/// The next request of either.
async fn first_asked(first: &mut HeldServer, second: &mut HeldServer) -> super::held_server::Asked {
    tokio::select! {
        asked = first.asked() => asked,
        asked = second.asked() => asked,
    }
}

//! What holds for connections: no delay, many streams.
// The one look at a raw descriptor below has no safe form: the server's accepted sockets are found by number.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, RawFd};

use socket2::SockRef;
use tonic::transport::Channel;

use super::rig::{BODY, Rig, Stream, body, chat, policy, said, until};

/// `TCP_NODELAY` of every socket of this process whose own end is `port`: the accepted ones, as the server runs here.
fn accepted(port: u16) -> Vec<bool> {
    let numbers: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    let mut found = Vec::new();
    for number in numbers {
        // SAFETY: only asked, never closed or kept; a number that was closed meanwhile answers with an error.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let socket = SockRef::from(&fd);
        let is_ours = socket.local_addr().ok().and_then(|a| a.as_socket()).is_some_and(|a| a.port() == port);
        if is_ours && socket.peer_addr().is_ok() {
            found.extend(socket.tcp_nodelay());
        }
    }
    found
}

#[test]
fn every_accepted_socket_sends_at_once() {
    let rig = Rig::new(&policy());
    rig.run(async {
        // Envoy's connections, and those to the batch service.
        let stream = rig.decide().await;
        let batch = format!("http://{}", rig.gateway.batch_addr());
        let channel = Channel::from_shared(batch).unwrap().connect().await.unwrap();
        for port in [rig.gateway.ext_proc_addr().port(), rig.gateway.batch_addr().port()] {
            until("the connection", || !accepted(port).is_empty());
            assert!(accepted(port).iter().all(|nodelay| *nodelay), "port {port} delays small writes");
        }
        drop((stream, channel));
    });
}

#[test]
fn two_thousand_streams_are_open_at_once() {
    const STREAMS: usize = 2_000;
    let rig = Rig::new(&policy());
    rig.run(async {
        let channel = rig.channel().await;
        let mut streams = Vec::with_capacity(STREAMS);
        for _ in 0..STREAMS {
            let mut stream = Stream::open(channel.clone(), Some("decide")).await.unwrap();
            assert!(stream.ask(chat()).await.mode_override.is_some());
            streams.push(stream);
        }
        for (n, stream) in streams.iter_mut().enumerate() {
            let answer = stream.ask(body(&BODY.replace("\"x\"", &format!("\"{n}\"")))).await;
            assert!(said(&answer, "id").is_some());
        }
        assert_eq!(rig.in_flight("fleet") as usize, STREAMS);
        assert_eq!(rig.gateway.engine().open_reservations(), STREAMS);
        drop(streams);
    });
    until("the slots", || rig.in_flight("fleet") == 0);
}

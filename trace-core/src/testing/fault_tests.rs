//! Each fault as it looks from a raw socket: what a test is promised, byte for byte.

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use prost::Message;

use super::behaviour::Random;
use super::tests::{SOON, client, three};
use super::*;

/// Long enough to see that nothing comes.
const A_WHILE: Duration = Duration::from_millis(50);

/// Sends a request with three spans.
fn ask(stream: &mut TcpStream) {
    let body = three().encode_to_vec();
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// Asks, and reads until the connection ends.
fn ask_for_all(collector: &Collector) -> Vec<u8> {
    let mut stream = connect(collector.http_address());
    ask(&mut stream);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

#[track_caller]
fn assert_nothing_comes(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(A_WHILE)).unwrap();
    let error = stream.read(&mut [0]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    stream.set_read_timeout(Some(SOON)).unwrap();
}

#[track_caller]
fn assert_success_comes(stream: &mut TcpStream) {
    let mut start = [0; 12];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    // The message is empty, so the head is all there is.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
}

#[test]
fn a_frozen_collector_takes_connections_reads_nothing_and_goes_on_afterwards() {
    let collector = Collector::start_blocking().unwrap();
    let mut open = connect(collector.http_address());
    ask(&mut open);
    assert_success_comes(&mut open);

    collector.behave(Behaviour::Freeze);
    let mut new = connect(collector.http_address());
    ask(&mut open);
    ask(&mut new);
    assert_nothing_comes(&mut open);
    assert_nothing_comes(&mut new);
    assert_eq!(collector.requests().len(), 1, "nothing was read");

    collector.behave(Behaviour::Accept);
    assert_success_comes(&mut open);
    assert_success_comes(&mut new);
    assert_eq!(collector.spans().len(), 9);
}

#[test]
fn freezing_and_refusing_follow_each_other() {
    let collector = Collector::start_blocking().unwrap();
    for _ in 0..2 {
        collector.behave(Behaviour::Refuse);
        assert_eq!(
            TcpStream::connect(collector.http_address()).unwrap_err().kind(),
            ErrorKind::ConnectionRefused
        );
        collector.behave(Behaviour::Freeze);
        let mut stream = connect(collector.http_address());
        ask(&mut stream);
        assert_nothing_comes(&mut stream);
    }
    collector.behave(Behaviour::Accept);
    let mut stream = connect(collector.http_address());
    ask(&mut stream);
    assert_success_comes(&mut stream);
}

#[test]
fn a_dripping_answer_comes_byte_by_byte_and_is_right() {
    let collector = Collector::start_blocking().unwrap();
    let pause = Duration::from_millis(2);
    collector.behave(Behaviour::Drip(pause));
    let mut stream = connect(collector.http_address());
    let asked = Instant::now();
    ask(&mut stream);
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    let least = pause * u32::try_from(answer.len()).unwrap();
    assert!(asked.elapsed() >= least, "{:?} for {} bytes", asked.elapsed(), answer.len());
    assert_eq!(collector.span_ids().len(), 3);
}

#[test]
fn an_answer_breaks_off_after_so_many_bytes_and_its_spans_are_kept() {
    let collector = Collector::start_blocking().unwrap();
    for after_bytes in [0, 1, 10] {
        collector.behave_once(Behaviour::BreakOff { after_bytes });
        assert_eq!(ask_for_all(&collector), b"HTTP/1.1 2"[..after_bytes]);
    }
    assert_eq!(collector.span_ids().len(), 9);
}

#[tokio::test]
async fn an_answer_over_grpc_breaks_off_too() {
    let collector = Collector::start().await.unwrap();
    collector.behave(Behaviour::BreakOff { after_bytes: 12 });
    client(&collector).await.export(three()).await.unwrap_err();
    assert_eq!(collector.span_ids().len(), 3);
}

#[test]
fn garbage_comes_in_place_of_an_answer_and_nothing_is_kept() {
    let collector = Collector::start_blocking().unwrap();
    collector.behave(Behaviour::Garbage { bytes: 100_001 });
    let answer = ask_for_all(&collector);
    assert_eq!(answer.len(), 100_001);
    let kinds: HashSet<u8> = answer.iter().copied().collect();
    assert_eq!(kinds.len(), 256, "nonsense holds every byte");
    assert_eq!(collector.span_ids(), []);
    assert_eq!(collector.seen_span_ids().len(), 3, "it may have kept them, for all that the sender knows");
}

#[tokio::test]
async fn a_flood_begins_as_a_success_and_does_not_end() {
    let collector = Collector::start().await.unwrap();
    collector.behave(Behaviour::Flood { bytes: 200_000 });
    tokio::task::spawn_blocking({
        let address = collector.http_address();
        move || {
            let mut stream = connect(address);
            ask(&mut stream);
            let mut came = vec![0; 200_000];
            stream.read_exact(&mut came).unwrap();
            assert!(came.starts_with(b"HTTP/1.1 200 OK\r\n"));
        }
    })
    .await
    .unwrap();
    client(&collector).await.export(three()).await.unwrap_err();
    assert_eq!(collector.span_ids().len(), 6);
}

#[test]
fn what_was_seen_and_what_was_kept_are_two_lists() {
    let collector = Collector::start_blocking().unwrap();
    collector.behave_once(Behaviour::rejecting());
    collector.behave_once(Behaviour::PartialSuccess { rejected: 2, message: String::new() });
    let mut stream = connect(collector.http_address());
    ask(&mut stream);
    ask(&mut stream);
    collector.blocking_wait_for_spans(1, SOON).unwrap();
    assert_eq!(collector.span_ids().len(), 1);
    assert_eq!(collector.seen_span_ids().len(), 6);
    collector.clear();
    assert_eq!(collector.seen_span_ids(), []);
}

#[test]
fn a_schedule_is_played_by_the_collectors_own_clock_and_its_end_stays() {
    let collector = Collector::start_blocking().unwrap();
    collector.behave(Behaviour::Refuse);
    collector.play([(Behaviour::Freeze, A_WHILE), (Behaviour::rejecting(), Duration::ZERO)]);
    // Whoever comes before the schedule has begun is refused still.
    let began = Instant::now();
    let mut stream = loop {
        match TcpStream::connect(collector.http_address()) {
            Ok(stream) => break stream,
            Err(error) => assert!(began.elapsed() < SOON, "{error}"),
        }
    };
    stream.set_read_timeout(Some(SOON)).unwrap();
    ask(&mut stream);
    let mut start = [0; 12];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 400");

    // One without end is ended by the next that is told.
    collector.play(std::iter::repeat((Behaviour::Refuse, Duration::from_micros(10))));
    std::thread::sleep(Duration::from_millis(2));
    collector.behave(Behaviour::Accept);
    for _ in 0..20 {
        let mut stream = connect(collector.http_address());
        ask(&mut stream);
        assert_success_comes(&mut stream);
    }
}

#[test]
fn flapping_is_random_fair_and_the_same_for_the_same_seed() {
    let pace = Duration::from_millis(100);
    let schedule = |seed| Behaviour::flapping(seed, pace).take(2_000).collect::<Vec<_>>();
    let flapping = schedule(7);
    assert_eq!(flapping, schedule(7));
    assert_ne!(flapping, schedule(8));
    assert!(flapping.iter().step_by(2).all(|(behaviour, _)| *behaviour == Behaviour::Accept));
    let faults: HashSet<_> =
        flapping.iter().skip(1).step_by(2).map(|(fault, _)| std::mem::discriminant(fault)).collect();
    assert_eq!(faults.len(), 10, "three of thirteen are failures like others");
    let total: Duration = flapping.iter().map(|(_, pause)| *pause).sum();
    assert!(flapping.iter().all(|(_, pause)| *pause < 2 * pace));
    assert!(total > pace * 1_800 && total < pace * 2_200, "{total:?}");
}

#[test]
fn random_numbers_are_spread_evenly_from_their_first() {
    let firsts: HashSet<_> = (0..1_000).map(|seed| Random::new(seed).next()).collect();
    assert_eq!(firsts.len(), 1_000);
    let mut random = Random::new(1);
    let mut counts = [0; 10];
    for _ in 0..10_000 {
        counts[random.below(10) as usize] += 1;
    }
    assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_collector_that_moves_is_gone_where_it_was_and_keeps_its_ports() {
    // Where nobody else is who might take the ports while they are free.
    let home = SocketAddr::from(([127, 0, 3, 1], 0));
    let collector = Collector::builder().http_address(home).grpc_address(home).start_blocking().unwrap();
    let was = collector.http_address();
    let mut open = connect(was);
    let there: IpAddr = "127.0.3.2".parse().unwrap();
    collector.move_to(there).unwrap();
    assert_eq!(collector.http_address(), SocketAddr::new(there, was.port()));
    assert_eq!(collector.grpc_address().ip(), there);
    assert_eq!(TcpStream::connect(was).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(open.read(&mut [0]).unwrap_or(0), 0, "the connection is over");
    let mut stream = connect(collector.http_address());
    ask(&mut stream);
    assert_success_comes(&mut stream);
    // Its own way back, also while it is shut.
    collector.behave(Behaviour::Refuse);
    collector.move_to(was.ip()).unwrap();
    assert_eq!(TcpStream::connect(was).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    collector.behave(Behaviour::Accept);
    // Who leaves without an answer may not have been heard.
    let mut stream = connect(was);
    ask(&mut stream);
    assert_success_comes(&mut stream);
    collector.blocking_wait_for_spans(6, SOON).unwrap();
}

#[test]
fn names_lead_where_they_should_fail_or_take_for_ever() {
    let names = Names::new();
    let resolver = names.resolver();
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    assert_eq!(resolver.look_up("shop").unwrap_err().kind(), ErrorKind::NotFound);
    names.point("shop", address);
    assert_eq!(resolver.look_up("shop").unwrap(), [address]);
    names.hang("shop");
    names.hang("forever");
    std::thread::scope(|scope| {
        let released = scope.spawn(|| resolver.look_up("shop"));
        let dropped = scope.spawn(|| resolver.look_up("forever"));
        while names.asked("shop") < 3 || names.asked("forever") < 1 {
            std::thread::yield_now();
        }
        assert!(!released.is_finished() && !dropped.is_finished());
        names.fail("shop");
        assert!(released.join().unwrap().is_err());
        assert!(!dropped.is_finished());
        drop(names);
        assert!(dropped.join().unwrap().is_err());
    });
}

/// An echo, and a connection to it through a proxy.
fn echo() -> (Proxy, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start_blocking(listener.local_addr().unwrap()).unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    let stream = connect(proxy.address());
    (proxy, stream)
}

#[track_caller]
fn assert_echoes(stream: &mut TcpStream) {
    stream.write_all(b"hello").unwrap();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
}

#[test]
fn a_proxy_passes_on_what_comes_and_its_end() {
    let (proxy, mut stream) = echo();
    assert_echoes(&mut stream);
    let (sent, mut heard) = (vec![7; 3_000_000], Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(&sent).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        });
        (&stream).read_to_end(&mut heard).unwrap();
    });
    assert_eq!(heard.len(), sent.len());
    drop(proxy);
}

#[test]
fn a_delay_is_added_in_both_directions() {
    let (proxy, mut stream) = echo();
    let delay = Duration::from_millis(30);
    proxy.set(Traffic::Delayed(delay));
    let began = Instant::now();
    assert_echoes(&mut stream);
    assert!(began.elapsed() >= 2 * delay, "{:?}", began.elapsed());
}

#[test]
fn what_is_lost_comes_later() {
    let (proxy, mut stream) = echo();
    proxy.set(Traffic::Lossy { percent: 0, seed: 1 });
    assert_echoes(&mut stream);
    proxy.set(Traffic::Lossy { percent: 100, seed: 1 });
    let began = Instant::now();
    assert_echoes(&mut stream);
    assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
}

#[test]
fn a_partition_holds_back_what_comes_after_it_until_it_heals() {
    for traffic in [Traffic::Stalled, Traffic::OneWay] {
        let (proxy, mut stream) = echo();
        assert_echoes(&mut stream);
        proxy.set(traffic);
        stream.write_all(b"hello").unwrap();
        assert_nothing_comes(&mut stream);
        proxy.set(Traffic::Flowing);
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
    }
}

#[test]
fn one_way_lets_requests_through_and_stalled_does_not() {
    let collector = Collector::start_blocking().unwrap();
    let proxy = Proxy::start_blocking(collector.http_address()).unwrap();
    proxy.set(Traffic::Stalled);
    let mut stream = connect(proxy.address());
    ask(&mut stream);
    assert_nothing_comes(&mut stream);
    assert_eq!(collector.requests().len(), 0);
    proxy.set(Traffic::OneWay);
    collector.blocking_wait_for_spans(3, SOON).unwrap();
    assert_nothing_comes(&mut stream);
    proxy.set(Traffic::Flowing);
    assert_success_comes(&mut stream);
}

#[test]
fn a_cut_resets_what_is_open_and_what_comes() {
    let (proxy, mut stream) = echo();
    assert_echoes(&mut stream);
    proxy.set(Traffic::Cut);
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let mut new = connect(proxy.address());
    assert_eq!(new.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    proxy.set(Traffic::Flowing);
    assert_echoes(&mut connect(proxy.address()));
}

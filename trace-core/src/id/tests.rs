use std::collections::HashSet;
use std::thread;

use proptest::prelude::*;

use super::*;

/// Enough that a bit which is set a twentieth too often shows beyond seven deviations.
const DRAWS: usize = 50_000;

#[test]
fn zero_is_no_id() {
    assert_eq!(TraceId::from_bytes([0; 16]), None);
    assert_eq!(SpanId::from_bytes([0; 8]), None);
    assert_eq!(TraceId::from_hex(&[b'0'; 32]), None);
    assert_eq!(SpanId::from_hex(&[b'0'; 16]), None);
    assert_eq!("0".repeat(32).parse::<TraceId>(), Err(ParseIdError::Zero));
    assert_eq!("0".repeat(16).parse::<SpanId>(), Err(ParseIdError::Zero));
}

#[test]
fn an_absent_id_needs_no_room_of_its_own() {
    assert_eq!(size_of::<Option<TraceId>>(), size_of::<u128>());
    assert_eq!(size_of::<Option<SpanId>>(), size_of::<u64>());
}

#[test]
fn a_short_or_long_text_is_no_id() {
    for digits in (0..70).filter(|digits| *digits != 32) {
        assert_eq!("4".repeat(digits).parse::<TraceId>(), Err(ParseIdError::Length), "{digits}");
    }
    for digits in (0..70).filter(|digits| *digits != 16) {
        assert_eq!("4".repeat(digits).parse::<SpanId>(), Err(ParseIdError::Length), "{digits}");
    }
}

#[test]
fn only_lower_case_hex_digits_are_digits() {
    for byte in 0..=u8::MAX {
        let is_digit = matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        for place in 0..32 {
            let mut digits = *b"4bf92f3577b34da6a3ce929d0e0e4736";
            digits[place] = byte;
            assert_eq!(TraceId::from_hex(&digits).is_some(), is_digit, "{byte:#x} at {place}");
        }
        for place in 0..16 {
            let mut digits = *b"00f067aa0ba902b7";
            digits[place] = byte;
            assert_eq!(SpanId::from_hex(&digits).is_some(), is_digit, "{byte:#x} at {place}");
        }
    }
}

#[test]
fn every_pair_of_digits_has_the_value_that_the_standard_library_gives_it() {
    for byte in 1..=u8::MAX {
        let digits = format!("{byte:016x}");
        let id: SpanId = digits.parse().unwrap();
        assert_eq!(id.to_u64(), u64::from(byte));
        assert_eq!(id.to_hex().as_str(), digits);
    }
}

#[test]
fn ids_print_as_hex_and_pad() {
    let id = SpanId::from_u64(0xabc).unwrap();
    assert_eq!(format!("{id} {id:?} {id:>18}"), "0000000000000abc 0000000000000abc   0000000000000abc");
    let id = TraceId::from_u128(1 << 127).unwrap();
    assert_eq!(format!("{id} {id:?}"), ["80000000000000000000000000000000"; 2].join(" "));
}

proptest! {
    #[test]
    fn ids_survive_their_bytes_and_their_text(number in 1..=u128::MAX, short in 1..=u64::MAX) {
        let id = TraceId::from_u128(number).unwrap();
        prop_assert_eq!(id.to_u128(), number);
        prop_assert_eq!(TraceId::from_bytes(id.to_bytes()), Some(id));
        prop_assert_eq!(TraceId::from_hex(id.to_hex().as_bytes()), Some(id));
        prop_assert_eq!(id.to_hex().to_string(), format!("{number:032x}"));
        prop_assert_eq!(id.to_string().parse(), Ok(id));

        let id = SpanId::from_u64(short).unwrap();
        prop_assert_eq!(id.to_u64(), short);
        prop_assert_eq!(SpanId::from_bytes(id.to_bytes()), Some(id));
        prop_assert_eq!(SpanId::from_hex(id.to_hex().as_bytes()), Some(id));
        prop_assert_eq!(id.to_hex().to_string(), format!("{short:016x}"));
        prop_assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn arbitrary_bytes_are_an_id_exactly_if_a_naive_reader_says_so(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let naive = |len: usize| {
            let good = bytes.len() == len && bytes.iter().all(|byte| b"0123456789abcdef".contains(byte));
            std::str::from_utf8(&bytes).ok().filter(|_| good).and_then(|digits| u128::from_str_radix(digits, 16).ok())
        };
        prop_assert_eq!(TraceId::from_hex(&bytes).map(TraceId::to_u128), naive(32).filter(|id| *id != 0));
        prop_assert_eq!(SpanId::from_hex(&bytes).map(|id| id.to_u64().into()), naive(16).filter(|id| *id != 0));
    }
}

#[test]
fn the_generator_is_xoshiro256_plus_plus() {
    // The first numbers from this state, by the reference implementation.
    let mut generator = Generator { state: [1, 2, 3, 4], generation: 0 };
    let drawn: Vec<u64> = (0..10).map(|_| generator.next()).collect();
    assert_eq!(
        drawn,
        [
            41943041,
            58720359,
            3588806011781223,
            3591011842654386,
            9228616714210784205,
            9973669472204895162,
            14011001112246962877,
            12406186145184390807,
            15849039046786891736,
            10450023813501588000,
        ]
    );
}

#[test]
fn ids_of_many_threads_are_unique() {
    let threads: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(|| {
                (0..DRAWS / 4).map(|_| (TraceId::random(), SpanId::random())).collect::<Vec<_>>()
            })
        })
        .collect();
    let drawn: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert_eq!(drawn.iter().map(|(trace, _)| trace).collect::<HashSet<_>>().len(), drawn.len());
    assert_eq!(drawn.iter().map(|(_, span)| span).collect::<HashSet<_>>().len(), drawn.len());
    // Nor does a span id repeat a part of a trace id: they are different draws.
    let halves: HashSet<u64> = drawn
        .iter()
        .flat_map(|(trace, _)| [(trace.to_u128() >> 64) as u64, trace.to_u128() as u64])
        .collect();
    assert!(drawn.iter().all(|(_, span)| !halves.contains(&span.to_u64())));
}

#[test]
fn every_bit_of_an_id_is_set_half_of_the_time_and_every_byte_has_every_value() {
    let mut ones = [0_usize; 192];
    let mut bytes = vec![[0_usize; 256]; 24];
    for _ in 0..DRAWS {
        let mut id = [0; 24];
        id[..16].copy_from_slice(&TraceId::random().to_bytes());
        id[16..].copy_from_slice(&SpanId::random().to_bytes());
        for (place, byte) in id.into_iter().enumerate() {
            bytes[place][usize::from(byte)] += 1;
            for bit in 0..8 {
                ones[place * 8 + bit] += usize::from(byte >> bit & 1);
            }
        }
    }
    // The deviation of a fair coin is the root of a quarter of its throws; seven of them happen once in 10^11.
    let fair = DRAWS as f64 / 2.0;
    let seven_sigma = 7.0 * (DRAWS as f64 / 4.0).sqrt();
    for (bit, ones) in ones.into_iter().enumerate() {
        assert!((ones as f64 - fair).abs() < seven_sigma, "bit {bit} was set {ones} times of {DRAWS}");
    }
    // The chi-square of 255 degrees of freedom has mean 255 and deviation 22.6.
    for (place, counts) in bytes.iter().enumerate() {
        let expected = DRAWS as f64 / 256.0;
        let chi_square: f64 = counts.iter().map(|&count| (count as f64 - expected).powi(2) / expected).sum();
        assert!(chi_square < 255.0 + 9.0 * 22.6, "byte {place}: chi-square {chi_square}");
    }
}

#[test]
fn two_seeds_differ() {
    let states: HashSet<_> = (0..1000).map(|_| Generator::seeded(1).state).collect();
    assert_eq!(states.len(), 1000);
}

#[test]
fn without_randomness_from_the_system_two_seeds_still_differ() {
    let seeds: HashSet<_> = (0..1000).map(|_| seed_without_os()).collect();
    assert_eq!(seeds.len(), 1000);
}

#[test]
fn a_generator_of_an_older_generation_is_seeded_anew() {
    thread::spawn(|| {
        // Not by a new generation: it would be the whole process', and the workers of other tests would be those of a parent.
        let older = GENERATION.load(Ordering::Relaxed) - 1;
        GENERATOR.set(Generator { state: [1, 2, 3, 4], generation: older });
        assert_ne!(random_u64(), 41943041, "the number that the old state would have given");
    })
    .join()
    .unwrap();
}

#[test]
fn ids_can_be_made_while_a_thread_takes_its_locals_down() {
    struct MakesAnId(std::sync::mpsc::Sender<TraceId>);
    impl Drop for MakesAnId {
        fn drop(&mut self) {
            let _ = self.0.send(TraceId::random());
        }
    }
    thread_local!(static LAST: Cell<Option<MakesAnId>> = const { Cell::new(None) });
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || LAST.set(Some(MakesAnId(sender)))).join().unwrap();
    receiver.recv().unwrap();
}

#[cfg(unix)]
#[test]
fn a_forked_process_and_its_parent_make_different_ids() {
    // What it would do without a handler: go on from the same state.
    let _ = TraceId::random();
    let mut ids = HashSet::new();
    for _ in 0..2 {
        ids.insert(id_made_by_a_child());
    }
    ids.insert(TraceId::random().to_bytes());
    assert_eq!(ids.len(), 3);
}

/// Forks, and reads from a pipe the id that the child makes.
#[cfg(unix)]
fn id_made_by_a_child() -> [u8; 16] {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    let [read, write] = ends;
    // SAFETY: the child does nothing that another thread's lock could stop: it draws an id (an atomic load, a system call
    // for the seed, arithmetic), writes it and leaves without running any destructor.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let id = TraceId::random().to_bytes();
        // SAFETY: `id` is 16 bytes long, and `_exit` may be called at any time.
        unsafe {
            libc::write(write, id.as_ptr().cast(), id.len());
            libc::_exit(0);
        }
    }
    let mut id = [0_u8; 16];
    // SAFETY: `id` has room for 16 bytes; the descriptors are ours, and the child is waited for once.
    unsafe {
        assert_eq!(libc::read(read, id.as_mut_ptr().cast(), id.len()), 16);
        libc::close(read);
        libc::close(write);
        assert_eq!(libc::waitpid(child, std::ptr::null_mut(), 0), child);
    }
    id
}

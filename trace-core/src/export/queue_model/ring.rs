//! The rings that the models take for granted, under load: everything that goes in comes out once, in the order in which it
//! went in, and there is never more in them than they hold.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::export::sync::ArrayQueue;

#[test]
fn what_goes_into_a_ring_comes_out_once_and_in_order_among_threads() {
    const EACH: usize = 2_000;
    for capacity in [1, 2, 3, 64] {
        let ring = &ArrayQueue::<Box<(usize, usize)>>::new(capacity);
        let came = &AtomicUsize::new(0);
        let taken: Vec<Vec<_>> = thread::scope(|scope| {
            for producer in 0..2 {
                scope.spawn(move || {
                    for number in 0..EACH {
                        let mut value = Box::new((producer, number));
                        while let Err(left) = ring.push(value) {
                            value = left;
                            thread::yield_now();
                        }
                    }
                });
            }
            let consumers = [(); 2].map(|()| {
                scope.spawn(|| {
                    let mut taken = Vec::new();
                    while came.load(Ordering::Relaxed) < 2 * EACH {
                        assert!(ring.len() <= capacity);
                        match ring.pop() {
                            Some(value) => {
                                came.fetch_add(1, Ordering::Relaxed);
                                taken.push(*value);
                            }
                            None => thread::yield_now(),
                        }
                    }
                    taken
                })
            });
            consumers.into_iter().map(|consumer| consumer.join().unwrap()).collect()
        });
        for of_one in &taken {
            for producer in 0..2 {
                let numbers = of_one.iter().filter(|(of, _)| *of == producer).map(|(_, number)| number);
                assert!(numbers.is_sorted(), "what went in first comes out first");
            }
        }
        let mut all: Vec<_> = taken.concat();
        all.sort_unstable();
        let expected: Vec<_> = (0..2).flat_map(|of| (0..EACH).map(move |number| (of, number))).collect();
        assert_eq!(all, expected);
        assert!(ring.pop().is_none());
    }
}

proptest! {
    #[test]
    fn a_ring_does_what_a_list_does(capacity in 1..9usize, pushes in vec(any::<bool>(), 0..200)) {
        let (ring, mut list) = (ArrayQueue::new(capacity), VecDeque::new());
        for (number, is_push) in pushes.into_iter().enumerate() {
            if is_push {
                let room = list.len() < capacity;
                prop_assert_eq!(ring.push(number), if room { Ok(()) } else { Err(number) });
                list.extend(room.then_some(number));
            } else {
                prop_assert_eq!(ring.pop(), list.pop_front());
            }
            prop_assert_eq!(ring.len(), list.len());
        }
    }
}

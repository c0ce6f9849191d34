use super::*;

#[test]
fn one_at_a_time() {
    let lock = TryLock::<u32>::default();
    let first = lock.try_lock().expect("nobody has it");
    assert!(lock.try_lock().is_none());
    assert!(lock.try_lock().is_none(), "looking leaves it as it is");
    drop(first);
    assert!(lock.try_lock().is_some());
}

#[test]
fn a_panic_gives_it_back() {
    let lock = TryLock::<u32>::default();
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut value = lock.try_lock().expect("nobody has it");
        *value = 7;
        std::panic::resume_unwind(Box::new("on purpose"));
    }));
    assert!(panic.is_err());
    assert_eq!(lock.try_lock().as_deref(), Some(&7));
}

#[test]
fn no_change_is_lost_among_threads() {
    let lock = TryLock::<u64>::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut done = 0;
                while done < 10_000 {
                    if let Some(mut value) = lock.try_lock() {
                        *value += 1;
                        done += 1;
                    }
                }
            });
        }
    });
    assert_eq!(lock.try_lock().as_deref(), Some(&40_000));
}

//! The thread pool: pinned workers that spin for the next job, then sleep.
//!
//! One forward pass of a small model is hundreds of jobs of a few microseconds each, so handing out
//! a job must cost less than one: workers spin on a counter for a while before they park, and a job
//! is a list of tasks that the threads take one by one. Which thread runs a task never changes its
//! result.
//!
//! What is not here: work stealing between jobs, nested jobs, priorities.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};

/// How often a worker looks for a job before it sleeps: some tens of microseconds, longer than the
/// pause between two passes of a reply being written.
const SPINS_BEFORE_PARK: u32 = 40_000;

/// A fixed set of threads that run one job at a time, the caller's thread among them.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    /// Serialises callers; a job is `&self` all the way down.
    turn: Mutex<()>,
}

struct Worker {
    thread: Thread,
    asleep: Arc<AtomicBool>,
    handle: Option<JoinHandle<()>>,
}

struct Shared {
    /// Raised by one for each job; odd numbers never occur.
    generation: AtomicUsize,
    job: Mutex<Option<Job>>,
    next_task: AtomicUsize,
    n_running: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
}

/// A job with its borrow erased: it lives on the stack of [`ThreadPool::run`], which does not
/// return before every worker has let go of it.
#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(usize) + Sync),
    n_tasks: usize,
}

// SAFETY: the pointee is `Sync`, and `run` keeps it alive until the workers are done with it.
unsafe impl Send for Job {}

impl ThreadPool {
    /// A pool of `n_threads`, the caller's counted; each worker is pinned to a processor where the
    /// system allows it.
    pub fn new(n_threads: NonZeroUsize) -> Self {
        let shared = Arc::new(Shared {
            generation: AtomicUsize::new(0),
            job: Mutex::new(None),
            next_task: AtomicUsize::new(0),
            n_running: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let workers = (1..n_threads.get())
            .map(|worker_idx| {
                let asleep = Arc::new(AtomicBool::new(false));
                let (shared, flag) = (Arc::clone(&shared), Arc::clone(&asleep));
                let handle = thread::Builder::new()
                    .name(format!("rapport-compute-{worker_idx}"))
                    .spawn(move || {
                        pin_to_processor(worker_idx);
                        work(&shared, &flag);
                    })
                    .expect("the system can start a thread");
                Worker { thread: handle.thread().clone(), asleep, handle: Some(handle) }
            })
            .collect();
        Self { shared, workers, turn: Mutex::new(()) }
    }

    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0)` to `task(n_tasks - 1)`, each once, on all threads, and waits for them.
    ///
    /// # Panics
    /// If a task panics, after the other tasks have ended. The pool stays usable.
    pub fn run(&self, n_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if n_tasks <= 1 || self.workers.is_empty() {
            (0..n_tasks).for_each(task);
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes, and `finish` below outwaits every use.
        let task_static: *const (dyn Fn(usize) + Sync) =
            unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), _>(task) };

        *lock(&shared.job) = Some(Job { task: task_static, n_tasks });
        shared.next_task.store(0, Ordering::Relaxed);
        shared.n_running.store(self.workers.len(), Ordering::Relaxed);
        shared.generation.fetch_add(2, Ordering::SeqCst);
        for worker in &self.workers {
            if worker.asleep.load(Ordering::SeqCst) {
                worker.thread.unpark();
            }
        }
        let finish = Finish { shared };
        take_tasks(shared, n_tasks, task);
        drop(finish);
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a compute task panicked");
    }
}

/// Waits for the workers even if the caller's own share panics: they hold its borrow.
struct Finish<'a> {
    shared: &'a Shared,
}

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            // No further tasks: the job has failed.
            self.shared.next_task.store(usize::MAX / 2, Ordering::Relaxed);
        }
        let mut n_spins = 0_u32;
        while self.shared.n_running.load(Ordering::Acquire) > 0 {
            std::hint::spin_loop();
            n_spins += 1;
            if n_spins.is_multiple_of(4096) {
                thread::yield_now();
            }
        }
        *lock(&self.shared.job) = None;
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.generation.fetch_add(2, Ordering::SeqCst);
        for worker in &mut self.workers {
            worker.thread.unpark();
            if let Some(handle) = worker.handle.take() {
                // A worker catches its tasks' panics, so joining cannot report one.
                let _ = handle.join();
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn take_tasks(shared: &Shared, n_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
    loop {
        let task_idx = shared.next_task.fetch_add(1, Ordering::Relaxed);
        if task_idx >= n_tasks {
            return;
        }
        task(task_idx);
    }
}

fn work(shared: &Shared, asleep: &AtomicBool) {
    let mut seen = 0;
    loop {
        seen = wait_for_job(shared, asleep, seen);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let job = *lock(&shared.job);
        if let Some(job) = job {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                // SAFETY: `run` waits for `n_running` to reach zero before it returns.
                let task = unsafe { &*job.task };
                take_tasks(shared, job.n_tasks, task);
            }));
            if outcome.is_err() {
                shared.panicked.store(true, Ordering::Relaxed);
            }
            shared.n_running.fetch_sub(1, Ordering::Release);
        }
    }
}

fn wait_for_job(shared: &Shared, asleep: &AtomicBool, seen: usize) -> usize {
    for _ in 0..SPINS_BEFORE_PARK {
        let generation = shared.generation.load(Ordering::Acquire);
        if generation != seen {
            return generation;
        }
        std::hint::spin_loop();
    }
    asleep.store(true, Ordering::SeqCst);
    let generation = loop {
        let generation = shared.generation.load(Ordering::SeqCst);
        if generation != seen {
            break generation;
        }
        thread::park();
    };
    asleep.store(false, Ordering::SeqCst);
    generation
}

/// Best effort: without it the threads only wander between processors.
#[cfg(target_os = "linux")]
fn pin_to_processor(worker_idx: usize) {
    let n_processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    if worker_idx >= n_processors || worker_idx >= libc::CPU_SETSIZE as usize {
        return;
    }
    // SAFETY: all-zero bytes are an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `worker_idx` is below CPU_SETSIZE.
    unsafe { libc::CPU_SET(worker_idx, &mut set) };
    // SAFETY: `set` is a valid set of the given size; 0 is the calling thread.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
}

#[cfg(not(target_os = "linux"))]
fn pin_to_processor(_worker_idx: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(n_threads: usize) -> ThreadPool {
        ThreadPool::new(NonZeroUsize::new(n_threads).unwrap())
    }

    #[test]
    fn every_task_runs_exactly_once() {
        for n_threads in [1, 2, 5] {
            let pool = pool(n_threads);
            for n_tasks in [0, 1, 2, 3, 64, 1000] {
                let counts: Vec<AtomicUsize> = (0..n_tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(n_tasks, &|task_idx| {
                    counts[task_idx].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn sleeping_workers_wake_for_the_next_job() {
        let pool = pool(3);
        for _ in 0..20 {
            let sum = AtomicUsize::new(0);
            pool.run(10, &|task_idx| {
                sum.fetch_add(task_idx, Ordering::Relaxed);
            });
            assert_eq!(sum.load(Ordering::Relaxed), 45);
            while !pool.workers.iter().all(|worker| worker.asleep.load(Ordering::SeqCst)) {
                thread::yield_now();
            }
        }
    }

    #[test]
    fn a_panicking_task_is_reported_and_the_pool_goes_on() {
        let pool = pool(2);
        for bad_task in [0, 7] {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pool.run(8, &|task_idx| assert!(task_idx != bad_task, "injected"));
            }));
            assert!(outcome.is_err());
            let n_done = AtomicUsize::new(0);
            pool.run(8, &|_| {
                n_done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(n_done.load(Ordering::Relaxed), 8);
        }
    }
}

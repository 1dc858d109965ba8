//! Work with results of its own on all threads, without `unsafe`.

use std::sync::{Mutex, PoisonError};

use rapport_kernels::Compute;

/// Rows that one task works through.
pub(crate) const TASK_ROWS: usize = 64;

/// Runs `run` on each of `tasks`, which usually hold the piece of a slice that they write.
pub(crate) fn for_each<T: Send>(compute: &Compute, tasks: Vec<T>, run: impl Fn(T) + Sync) {
    let tasks: Vec<Mutex<Option<T>>> =
        tasks.into_iter().map(|task| Mutex::new(Some(task))).collect();
    compute.pool().run(tasks.len(), &|task_idx| {
        let task = tasks[task_idx].lock().unwrap_or_else(PoisonError::into_inner).take();
        run(task.expect("a pool runs each task once"));
    });
}

//! Root-mean-square norm (Zhang and Sennrich 2019) and its gradient.

use rapport_kernels::{Compute, Real};

use super::parallel::{TASK_ROWS, for_each};

const LANES: usize = 8;

/// `sum a b`, in eight lanes.
fn dot<R: Real>(a: &[R], b: &[R]) -> R {
    let mut sums = [R::ZERO; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        sums[lane] += *a * *b;
    }
    sums.into_iter().sum()
}

fn inverse_rms<R: Real>(x: &[R], epsilon: f64) -> R {
    let mean = dot(x, x) / R::from_f64(x.len() as f64);
    R::ONE / (mean + R::from_f64(epsilon)).sqrt()
}

/// `out = x / rms(x) * weight`, row by row.
pub(crate) fn forward<R: Real>(
    compute: &Compute,
    x: &[R],
    weight: &[R],
    epsilon: f64,
    out: &mut [R],
) {
    let n_cols = weight.len();
    let tasks = x.chunks(TASK_ROWS * n_cols).zip(out.chunks_mut(TASK_ROWS * n_cols)).collect();
    for_each(compute, tasks, |(x, out)| {
        for (x, out) in x.chunks_exact(n_cols).zip(out.chunks_exact_mut(n_cols)) {
            let scale = inverse_rms(x, epsilon);
            for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                *out = *x * scale * *weight;
            }
        }
    });
}

/// Adds to `dx` the gradient through [`forward`]; `d_out` is used up.
pub(crate) fn backward<R: Real>(
    compute: &Compute,
    x: &[R],
    weight: &[R],
    epsilon: f64,
    (d_out, dx): (&mut [R], &mut [R]),
) {
    let n_cols = weight.len();
    let chunk = TASK_ROWS * n_cols;
    let tasks = x.chunks(chunk).zip(d_out.chunks_mut(chunk)).zip(dx.chunks_mut(chunk)).collect();
    for_each(compute, tasks, |((x, d_out), dx)| {
        let rows = x.chunks_exact(n_cols).zip(d_out.chunks_exact_mut(n_cols));
        for ((x, d_out), dx) in rows.zip(dx.chunks_exact_mut(n_cols)) {
            let scale = inverse_rms(x, epsilon);
            for (d_out, weight) in d_out.iter_mut().zip(weight) {
                *d_out *= *weight * scale;
            }
            let along = dot(d_out, x) * scale * scale / R::from_f64(n_cols as f64);
            for ((dx, d_out), x) in dx.iter_mut().zip(d_out.iter()).zip(x) {
                *dx += *d_out - *x * along;
            }
        }
    });
}

//! The one kind of layer that multiplies by weights: everything but norms, embeddings and experts.

use rapport_kernels::{Activations, Compute, PackedMatrix};

/// `x * weight^T + bias`
///
/// # Shapes
/// `weight`: (R, C), `bias`: (R).
pub(crate) struct Linear {
    pub(crate) weight: PackedMatrix,
    pub(crate) bias: Option<Vec<f32>>,
}

impl Linear {
    /// Applies several layers to the same `x`, in one job.
    ///
    /// # Shapes
    /// `x`: (T, C); each layer's `out`: (T, R).
    pub(crate) fn apply<const N: usize>(
        compute: &Compute,
        x: &Activations,
        mut layers: [(&Self, &mut [f32]); N],
    ) {
        let mut products = layers.each_mut().map(|(layer, out)| (&layer.weight, &mut **out));
        compute.matmul(x, &mut products);
        for (layer, out) in layers {
            layer.add_bias(out);
        }
    }

    /// Bytes that the layer reads.
    pub(crate) fn n_bytes(&self) -> usize {
        self.weight.n_bytes()
    }

    pub(crate) fn add_bias(&self, out: &mut [f32]) {
        if let Some(bias) = &self.bias {
            for row in out.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
            }
        }
    }
}

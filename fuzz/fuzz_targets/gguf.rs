//! Any bytes, read as a GGUF file: an error, or a file whose every value and tensor can be read,
//! and that is the same after it was written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rapport_kernels::blocks::dequantize_row;
use rapport_model::gguf::{Gguf, GgufPlan, Value};

fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = Gguf::from_bytes(bytes.to_vec()) else { return };
    for (key, value) in gguf.metadata().iter() {
        walk(value);
        ask_every_type(&gguf, key);
    }
    for info in gguf.tensors() {
        let tensor = gguf.tensor(&info.name).expect("a tensor of the file");
        assert_eq!(tensor.bytes.len() as u64, info.n_bytes);
        let n_cols = info.row_len() as usize;
        let row_bytes = info.block_type.row_bytes(n_cols).expect("whole blocks");
        dequantize_row(info.block_type, &tensor.bytes[..row_bytes], &mut vec![0.0; n_cols]);
    }
    // Padding follows the alignment, which a small file may set to gigabytes.
    if gguf.alignment() <= 4096 {
        let copy = copy(&gguf);
        let again = Gguf::from_bytes(copy.clone()).expect("a file that was just written");
        assert_eq!(self::copy(&again), copy);
    }
});

fn walk(value: Value<'_>) {
    if let Value::Array(array) = value {
        assert_eq!(array.values().count(), array.len());
        array.values().for_each(walk);
    }
}

/// Getters give a value or an error, whatever the key holds.
fn ask_every_type(gguf: &Gguf, key: &str) {
    let metadata = gguf.metadata();
    let _ = metadata.string(key);
    let _ = metadata.u32(key);
    let _ = metadata.u64(key);
    let _ = metadata.f32(key);
    let _ = metadata.bool(key);
    let _ = metadata.f32s(key);
    let _ = metadata.i32s(key);
    let _ = metadata.u32s(key);
    let _ = metadata.bools(key);
    if let Ok(strings) = metadata.strings(key) {
        let n_strings = strings.len();
        assert_eq!(strings.count(), n_strings);
    }
}

fn copy(gguf: &Gguf) -> Vec<u8> {
    let mut plan = GgufPlan::new();
    for (key, value) in gguf.metadata().iter() {
        plan.value(key, value).expect("a value that was read");
    }
    for info in gguf.tensors() {
        plan.tensor(&info.name, &info.dims, info.block_type).expect("a tensor that was read");
    }
    let mut writer = plan.begin(Vec::new()).expect("memory takes every write");
    for info in gguf.tensors() {
        let tensor = gguf.tensor(&info.name).expect("a tensor of the file");
        writer.tensor(tensor.bytes).expect("memory takes every write");
    }
    writer.finish().expect("every tensor was written")
}

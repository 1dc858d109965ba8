//! GGUF files: what is written is read back, and no bytes whatever break the reader.
//!
//! Tests named `f01_` to `f08_` are cases of damaged and hostile files.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use rapport_kernels::blocks::{BlockType, dequantize_row};
use rapport_model::gguf::{
    FoundType, Gguf, GgufPlan, GgufProblem, GgufWriteError, Part, Value, ValueType,
};

/// Bytes of a file, field by field, valid or not.
#[derive(Clone, Debug, Default)]
struct Raw(Vec<u8>);

impl Raw {
    fn header(n_tensors: u64, n_entries: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(3).u64(n_tensors).u64(n_entries)
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn string(self, text: &[u8]) -> Self {
        self.u64(text.len() as u64).bytes(text)
    }

    fn entry(self, key: &str, value_type: ValueType) -> Self {
        self.string(key.as_bytes()).u32(value_type.id())
    }

    fn tensor(mut self, name: &str, dims: &[u64], type_id: u32, offset: u64) -> Self {
        self = self.string(name.as_bytes()).u32(dims.len() as u32);
        for &dim in dims {
            self = self.u64(dim);
        }
        self.u32(type_id).u64(offset)
    }

    /// Pads to the default alignment and appends this much tensor data.
    fn data(mut self, n_bytes: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + n_bytes, 0);
        self
    }

    fn open(self) -> Result<Gguf, GgufProblem> {
        Gguf::from_bytes(self.0).map_err(|error| error.problem)
    }

    fn problem(self) -> GgufProblem {
        self.open().expect_err("the file is not valid")
    }
}

/// A file with one tensor and 1 KiB of data.
fn one_tensor(dims: &[u64], type_id: u32, offset: u64) -> Raw {
    Raw::header(1, 0).tensor("weight", dims, type_id, offset).data(1024)
}

/// A valid file with a value of every type and tensors of several.
fn small_file() -> Vec<u8> {
    let mut plan = GgufPlan::new();
    plan.string("general.architecture", "llama").unwrap();
    plan.value("u8", Value::U8(200)).unwrap();
    plan.value("i8", Value::I8(-100)).unwrap();
    plan.value("u16", Value::U16(60_000)).unwrap();
    plan.value("i16", Value::I16(-30_000)).unwrap();
    plan.value("u32", Value::U32(4_000_000_000)).unwrap();
    plan.value("i32", Value::I32(-2_000_000_000)).unwrap();
    plan.value("u64", Value::U64(u64::MAX)).unwrap();
    plan.value("i64", Value::I64(i64::MIN)).unwrap();
    plan.value("f32", Value::F32(1e-5)).unwrap();
    plan.value("f64", Value::F64(10_000.0)).unwrap();
    plan.value("bool", Value::Bool(true)).unwrap();
    plan.strings("strings", &[&b"plain"[..], b"", b"nul\0", b"\xff\xfe"]).unwrap();
    plan.value("not utf-8", Value::String(b"ab\xff")).unwrap();
    plan.f32s("f32s", &[0.5, f32::INFINITY]).unwrap();
    plan.i32s("i32s", &[1, -1]).unwrap();
    plan.u32s("u32s", &[7, u32::MAX]).unwrap();
    plan.bools("bools", &[true, false]).unwrap();
    plan.tensor("norm.weight", &[8], BlockType::F32).unwrap();
    plan.tensor("blk.0.weight", &[64, 2], BlockType::Q4_1).unwrap();
    plan.tensor("experts", &[3, 2, 2], BlockType::F16).unwrap();
    let mut writer = plan.begin(Vec::new()).unwrap();
    for (n_bytes, fill) in [(32, 1), (80, 2), (24, 3)] {
        writer.tensor(&vec![fill; n_bytes]).unwrap();
    }
    writer.finish().unwrap()
}

/// Writes what was read.
fn copy(gguf: &Gguf) -> Vec<u8> {
    let mut plan = GgufPlan::new();
    for (key, value) in gguf.metadata().iter() {
        plan.value(key, value).unwrap();
    }
    for info in gguf.tensors() {
        plan.tensor(&info.name, &info.dims, info.block_type).unwrap();
    }
    let mut writer = plan.begin(Vec::new()).unwrap();
    for info in gguf.tensors() {
        writer.tensor(gguf.tensor(&info.name).unwrap().bytes).unwrap();
    }
    writer.finish().unwrap()
}

/// Touches all of a file, as something that runs it would.
fn walk(gguf: &Gguf) {
    fn walk_value(value: Value<'_>) {
        if let Value::Array(array) = value {
            assert_eq!(array.values().count(), array.len());
            array.values().for_each(walk_value);
        }
    }
    for (_, value) in gguf.metadata().iter() {
        walk_value(value);
    }
    for info in gguf.tensors() {
        let tensor = gguf.tensor(&info.name).unwrap();
        assert_eq!(tensor.bytes.len() as u64, info.n_bytes);
        let mut weights = vec![0.0; info.n_weights() as usize];
        dequantize_row(info.block_type, tensor.bytes, &mut weights);
    }
}

/// A file on disk for one test.
fn write_file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn getters_give_what_was_written() {
    let gguf = Gguf::from_bytes(small_file()).unwrap();
    let metadata = gguf.metadata();
    assert_eq!(metadata.len(), 18);
    assert_eq!(metadata.iter().next().unwrap().0, "general.architecture");
    assert_eq!(metadata.string("general.architecture").unwrap(), "llama");
    assert_eq!(metadata.u32("u8").unwrap(), 200);
    assert_eq!(metadata.u64("u16").unwrap(), 60_000);
    assert_eq!(metadata.u32("u32").unwrap(), 4_000_000_000);
    assert_eq!(metadata.u64("u64").unwrap(), u64::MAX);
    assert_eq!(metadata.get("i64"), Some(Value::I64(i64::MIN)));
    assert_eq!(metadata.f32("f32").unwrap().to_bits(), 1e-5_f32.to_bits());
    assert_eq!(metadata.f32("f64").unwrap().to_bits(), 10_000.0_f32.to_bits());
    assert!(metadata.bool("bool").unwrap());
    let strings: Vec<_> = metadata.strings("strings").unwrap().collect();
    assert_eq!(strings, [&b"plain"[..], b"", b"nul\0", b"\xff\xfe"]);
    assert_eq!(metadata.strings("strings").unwrap().len(), 4);
    assert_eq!(metadata.bytes("not utf-8").unwrap(), b"ab\xff");
    assert_eq!(metadata.f32s("f32s").unwrap(), [0.5, f32::INFINITY]);
    assert_eq!(metadata.i32s("i32s").unwrap(), [1, -1]);
    assert_eq!(metadata.u32s("u32s").unwrap(), [7, u32::MAX]);
    assert_eq!(metadata.bools("bools").unwrap(), [true, false]);
    assert_eq!(metadata.optional_u32("no such key").unwrap(), None);

    let tensor = gguf.require("blk.0.weight", &[64, 2]).unwrap();
    assert_eq!((tensor.info.row_len(), tensor.info.n_rows()), (64, 2));
    assert_eq!(tensor.bytes, [2; 80]);
    assert_eq!(gguf.find("experts").unwrap().n_weights(), 12);
}

#[test]
fn f04_wrong_and_missing_keys_say_what_was_expected() {
    let gguf = Gguf::from_bytes(small_file()).unwrap();
    let metadata = gguf.metadata();
    let messages = [
        metadata.u32("no such key").unwrap_err(),
        metadata.optional_u32("general.architecture").unwrap_err(),
        metadata.string("strings").unwrap_err(),
        metadata.strings("i32s").unwrap_err(),
        metadata.f32("u8").unwrap_err(),
        metadata.bool("u8").unwrap_err(),
        metadata.u32("i8").unwrap_err(),
        metadata.u32("u64").unwrap_err(),
        metadata.u32s("i32s").unwrap_err(),
        metadata.i32s("u32s").unwrap_err(),
        metadata.string("not utf-8").unwrap_err(),
        gguf.tensor("no such tensor").unwrap_err(),
        gguf.require("blk.0.weight", &[64, 3]).unwrap_err(),
    ]
    .map(|error| error.to_string());
    assert_eq!(
        messages,
        [
            "metadata key `no such key` is missing",
            "metadata key `general.architecture` is string, expected u32",
            "metadata key `strings` is array of string, expected string",
            "metadata key `i32s` is array of i32, expected array of string",
            "metadata key `u8` is u8, expected f32",
            "metadata key `u8` is u8, expected bool",
            "metadata key `i8` holds -100, expected u32",
            "metadata key `u64` holds 18446744073709551615, expected u32",
            "metadata key `i32s` holds -1, expected array of u32",
            "metadata key `u32s` holds 4294967295, expected array of i32",
            "metadata key `not utf-8` is not valid UTF-8 from byte 2 on",
            "tensor `no such tensor` is missing",
            "tensor `blk.0.weight` has the shape 64 x 2, expected 64 x 3",
        ]
        .map(|message| format!("<GGUF in memory>: {message}"))
    );
}

#[test]
fn a_copy_is_the_same_file() {
    let file = small_file();
    let gguf = Gguf::from_bytes(file.clone()).unwrap();
    assert_eq!(copy(&gguf), file);
}

#[test]
fn a_copy_keeps_another_alignment() {
    let mut plan = GgufPlan::new();
    plan.value("general.alignment", Value::U32(128)).unwrap();
    plan.tensor("a", &[1], BlockType::F32).unwrap();
    plan.tensor("b", &[1], BlockType::F32).unwrap();
    let mut writer = plan.begin(Vec::new()).unwrap();
    writer.tensor(&[1; 4]).unwrap();
    writer.tensor(&[2; 4]).unwrap();
    let file = writer.finish().unwrap();

    let gguf = Gguf::from_bytes(file.clone()).unwrap();
    assert_eq!(gguf.alignment(), 128);
    assert_eq!(gguf.find("b").unwrap().offset, 128);
    assert_eq!(gguf.tensor("b").unwrap().bytes, [2; 4]);
    assert_eq!(copy(&gguf), file);
}

#[test]
fn version_2_is_read_like_version_3() {
    let mut file = small_file();
    file[4] = 2;
    let gguf = Gguf::from_bytes(file).unwrap();
    assert_eq!(gguf.version(), 2);
    walk(&gguf);
}

#[test]
fn a_header_longer_than_the_first_read_is_read_whole() {
    let long = "long ".repeat(3 << 20);
    let mut plan = GgufPlan::new();
    plan.string("first", &long).unwrap();
    plan.string("second", "short").unwrap();
    plan.tensor("weight", &[4], BlockType::F32).unwrap();
    let mut writer = plan.begin(Vec::new()).unwrap();
    writer.tensor(&[7; 16]).unwrap();
    let path = write_file("long_header.gguf", &writer.finish().unwrap());

    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.metadata().string("first").unwrap(), long);
    assert_eq!(gguf.metadata().string("second").unwrap(), "short");
    assert_eq!(gguf.tensor("weight").unwrap().bytes, [7; 16]);
}

#[test]
fn a_file_without_tensors_opens() {
    let gguf = Raw::header(0, 0).open().unwrap();
    assert!(gguf.tensors().is_empty() && gguf.metadata().is_empty());
}

#[test]
fn what_is_not_a_file_says_so() {
    let missing = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("no such file.gguf");
    let error = Gguf::open(&missing).unwrap_err();
    assert!(matches!(error.problem, GgufProblem::Io(_)));
    assert!(error.to_string().contains("no such file.gguf"), "{error}");

    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    assert!(matches!(Gguf::open(&directory).unwrap_err().problem, GgufProblem::Io(_)));

    let empty = write_file("empty.gguf", b"");
    let truncated = Gguf::open(&empty).unwrap_err().problem;
    assert!(matches!(truncated, GgufProblem::Truncated { part: Part::Header, .. }));
}

#[test]
fn other_formats_are_refused() {
    let zip = Gguf::from_bytes(b"PK\x03\x04 and more".to_vec()).unwrap_err().problem;
    assert!(zip.to_string().contains(r"`GGUF`") && zip.to_string().contains(r"PK\x03\x04"));
    let version = |version: u32| Raw(b"GGUF".to_vec()).u32(version).u64(0).u64(0).problem();
    assert!(matches!(version(1), GgufProblem::UnsupportedVersion { found: 1 }));
    assert!(matches!(version(0), GgufProblem::UnsupportedVersion { found: 0 }));
    assert!(matches!(version(4), GgufProblem::UnsupportedVersion { found: 4 }));
    assert!(matches!(version(3_u32.swap_bytes()), GgufProblem::BigEndian));
}

#[test]
fn f01_cut_at_every_byte() {
    let file = small_file();
    let last = Gguf::from_bytes(file.clone()).unwrap();
    // Only the padding behind the last tensor may be missing.
    let padding_bytes = 32 - 24;
    assert_eq!(last.tensors().last().unwrap().n_bytes, 24);
    for n_bytes in 0..file.len() {
        let cut = Gguf::from_bytes(file[..n_bytes].to_vec());
        if n_bytes >= file.len() - padding_bytes {
            walk(&cut.unwrap());
        } else {
            let problem = cut.unwrap_err().problem;
            let is_cut = matches!(
                problem,
                GgufProblem::Truncated { .. }
                    | GgufProblem::TooMany { .. }
                    | GgufProblem::TensorPastEnd { .. }
            );
            assert!(is_cut, "cut at {n_bytes}: {problem}");
        }
    }
}

#[test]
fn f01_every_header_byte_changed() {
    let file = small_file();
    let data_bytes = 32 + 96 + 32;
    for idx in 0..file.len() - data_bytes {
        for change in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xFF] {
            let mut changed = file.clone();
            changed[idx] ^= change;
            if let Ok(gguf) = Gguf::from_bytes(changed) {
                walk(&gguf);
            }
        }
    }
}

#[test]
fn f02_tensor_past_eof() {
    one_tensor(&[256], 0, 0).open().unwrap();
    let problem = one_tensor(&[264], 0, 0).problem();
    assert_eq!(
        problem.to_string(),
        "tensor `weight` has 1056 bytes from 0 and the file's tensor data has 1024: the file is \
         cut short or damaged, download it again"
    );
    assert!(matches!(one_tensor(&[256], 0, 32).problem(), GgufProblem::TensorPastEnd { .. }));
}

#[test]
fn f02_dims_product_overflows() {
    for dims in [&[1 << 32, 1 << 32][..], &[1 << 62, 2], &[u64::MAX], &[1 << 62, 4, 4, 4]] {
        let problem = one_tensor(dims, 0, 0).problem();
        assert!(matches!(problem, GgufProblem::InvalidDimensions { .. }), "{dims:?}: {problem}");
    }
    // The number of weights fits, the number of bytes does not.
    let problem = one_tensor(&[1 << 62], 0, 0).problem();
    assert!(matches!(problem, GgufProblem::InvalidDimensions { .. }), "{problem}");
}

#[test]
fn f02_offset_plus_size_overflows() {
    for offset in [u64::MAX - 31, 1 << 63] {
        let problem = one_tensor(&[8], 0, offset).problem();
        assert!(matches!(problem, GgufProblem::TensorPastEnd { .. }), "{problem}");
    }
}

#[test]
fn f02_overlapping_tensors() {
    let two = |second_offset| {
        let raw = Raw::header(2, 0).tensor("first", &[16], 0, 0);
        raw.tensor("second", &[16], 0, second_offset).data(128)
    };
    two(64).open().unwrap();
    for second_offset in [0, 32] {
        assert!(matches!(
            two(second_offset).problem(),
            GgufProblem::OverlappingTensors { first, second }
                if first == "first" && second == "second"
        ));
    }
}

#[test]
fn f03_counts_beyond_the_file() {
    for count in [1, 1 << 20, 1 << 63, u64::MAX] {
        let problem = Raw::header(count, 0).problem();
        let is_tensors = matches!(problem, GgufProblem::TooMany { counted: "tensors", .. });
        assert!(is_tensors, "{problem}");
        let problem = Raw::header(0, count).problem();
        let is_entries =
            matches!(problem, GgufProblem::TooMany { counted: "metadata entries", .. });
        assert!(is_entries, "{problem}");
    }
}

#[test]
fn f03_lengths_beyond_the_file() {
    for len in [1, 1 << 32, 1 << 61, 1 << 63, u64::MAX] {
        let in_value = |problem: GgufProblem| {
            let part = Part::Value { key: "key".into() };
            matches!(problem, GgufProblem::Truncated { part: found, .. } if found == part)
        };
        assert!(in_value(Raw::header(0, 1).entry("key", ValueType::String).u64(len).problem()));
        let array = || Raw::header(0, 1).entry("key", ValueType::Array);
        for element_type in
            [ValueType::Bool, ValueType::U8, ValueType::F64, ValueType::String, ValueType::Array]
        {
            assert!(in_value(array().u32(element_type.id()).u64(len).problem()), "{element_type}");
        }
    }
    let key_length = Raw::header(0, 1).u64(u64::MAX).bytes(&[0; 64]).problem();
    assert!(matches!(key_length, GgufProblem::NameTooLong { part: Part::MetadataEntry(0), .. }));
    let name_length = Raw::header(1, 0).u64(1 << 40).bytes(&[0; 64]).problem();
    assert!(matches!(name_length, GgufProblem::NameTooLong { part: Part::TensorEntry(0), .. }));
}

#[test]
fn f03_arrays_in_arrays() {
    let nested = |depth: u32| {
        let mut raw = Raw::header(0, 1).entry("key", ValueType::Array);
        for _ in 1..depth {
            raw = raw.u32(ValueType::Array.id()).u64(1);
        }
        raw.u32(ValueType::U8.id()).u64(1).bytes(&[7])
    };
    let gguf = nested(4).open().unwrap();
    walk(&gguf);
    let again = Gguf::from_bytes(copy(&gguf)).unwrap();
    assert_eq!(again.metadata().get("key"), gguf.metadata().get("key"));
    for depth in [5, 100_000] {
        let problem = nested(depth).problem();
        assert!(matches!(problem, GgufProblem::NestedTooDeep { at_most: 4, .. }), "{problem}");
    }
}

#[test]
fn f04_duplicates() {
    let entry = |raw: Raw| raw.entry("key", ValueType::U8).bytes(&[1]);
    let problem = entry(entry(Raw::header(0, 2))).problem();
    assert!(matches!(problem, GgufProblem::DuplicateKey { key } if key == "key"));

    let raw = Raw::header(2, 0).tensor("weight", &[8], 0, 0).tensor("weight", &[8], 0, 32);
    let problem = raw.data(64).problem();
    assert!(matches!(problem, GgufProblem::DuplicateTensor { tensor } if tensor == "weight"));
}

#[test]
fn f04_alignment() {
    let aligned = |alignment: u32| {
        Raw::header(0, 1).entry("general.alignment", ValueType::U32).u32(alignment)
    };
    for alignment in [0, 3, 33, u32::MAX] {
        let problem = aligned(alignment).problem();
        assert!(matches!(problem, GgufProblem::InvalidAlignment { .. }), "{problem}");
    }
    for alignment in [1, 8, 4096, 1 << 31] {
        assert_eq!(aligned(alignment).open().unwrap().alignment(), u64::from(alignment));
    }
    // The data would start past the end of the file.
    let raw = Raw::header(1, 1).entry("general.alignment", ValueType::U32).u32(1 << 31);
    let problem = raw.tensor("weight", &[8], 0, 0).data(64).problem();
    assert!(matches!(problem, GgufProblem::TensorPastEnd { available_bytes: 0, .. }));

    let text = Raw::header(0, 1).entry("general.alignment", ValueType::String).string(b"32");
    assert!(matches!(
        text.problem(),
        GgufProblem::WrongValueType { found: FoundType::Scalar(ValueType::String), .. }
    ));
    let problem = one_tensor(&[8], 0, 4).problem();
    assert!(matches!(problem, GgufProblem::MisalignedTensor { offset: 4, alignment: 32, .. }));
}

#[test]
fn f04_types_that_do_not_exist() {
    for type_id in [4, 5, 31, 1000, u32::MAX] {
        assert!(matches!(
            one_tensor(&[256], type_id, 0).problem(),
            GgufProblem::UnsupportedTensorType { tensor, type_id: found }
                if tensor == "weight" && found == type_id
        ));
    }
    for found_type in [13, u32::MAX] {
        let scalar = Raw::header(0, 1).string(b"key").u32(found_type).u64(0).problem();
        assert!(
            matches!(scalar, GgufProblem::UnknownValueType { found, .. } if found == found_type)
        );
        let array = Raw::header(0, 1).entry("key", ValueType::Array).u32(found_type).u64(1);
        assert!(matches!(array.problem(), GgufProblem::UnknownValueType { .. }));
    }
    let bool_entry = Raw::header(0, 1).entry("key", ValueType::Bool).bytes(&[2]);
    assert!(matches!(bool_entry.problem(), GgufProblem::InvalidBool { found: 2, .. }));
    let bools = Raw::header(0, 1).entry("key", ValueType::Array).u32(ValueType::Bool.id());
    let problem = bools.u64(3).bytes(&[0, 1, 255]).problem();
    assert!(matches!(problem, GgufProblem::InvalidBool { found: 255, .. }));
}

#[test]
fn f04_shapes_that_cannot_be() {
    for dims in [&[][..], &[8, 1, 1, 1, 1]] {
        let problem = one_tensor(dims, 0, 0).problem();
        assert!(matches!(problem, GgufProblem::InvalidDimensionCount { .. }), "{problem}");
    }
    for dims in [&[0][..], &[8, 0], &[0, 0, 0, 0]] {
        let problem = one_tensor(dims, 0, 0).problem();
        assert!(matches!(problem, GgufProblem::InvalidDimensions { .. }), "{problem}");
    }
    // 576 weights are 18 blocks of Q4_1 and no whole number of blocks of Q4_K.
    one_tensor(&[576], BlockType::Q4_1.ggml_id(), 0).open().unwrap();
    let problem = one_tensor(&[576], BlockType::Q4K.ggml_id(), 0).problem();
    assert_eq!(
        problem.to_string(),
        "tensor `weight` has rows of 576 weights: Q4_K needs a multiple of 256"
    );
}

#[test]
fn f05_names_must_be_utf8_and_vocabularies_need_not() {
    let key = Raw::header(0, 1).string(b"\xff").u32(ValueType::U8.id()).bytes(&[1]).problem();
    assert!(matches!(key, GgufProblem::NameNotUtf8 { part: Part::MetadataEntry(0) }));
    let name = Raw::header(1, 0).string(b"\xc3\x28").bytes(&[0; 64]).problem();
    assert!(matches!(name, GgufProblem::NameNotUtf8 { part: Part::TensorEntry(0) }));

    let gguf = Gguf::from_bytes(small_file()).unwrap();
    let strings = gguf.metadata().strings("strings").unwrap();
    assert_eq!(strings.last(), Some(&b"\xff\xfe"[..]));
}

#[test]
fn f08_truncated_while_open() {
    let path = write_file("truncated_while_open.gguf", &small_file());
    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.tensor("norm.weight").unwrap().bytes, [1; 32]);

    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    let problem = gguf.tensor("norm.weight").unwrap_err().problem;
    assert!(matches!(problem, GgufProblem::Changed { found_bytes: 100, .. }), "{problem}");
    // The header is in memory.
    assert_eq!(gguf.metadata().strings("strings").unwrap().count(), 4);
}

#[test]
fn f08_deleted_or_replaced_while_open() {
    let path = write_file("replaced_while_open.gguf", &small_file());
    let gguf = Gguf::open(&path).unwrap();
    let newer = write_file("newer.gguf", b"something else");
    fs::rename(&newer, &path).unwrap();
    assert_eq!(gguf.tensor("blk.0.weight").unwrap().bytes, [2; 80]);
    fs::remove_file(&path).unwrap();
    assert_eq!(gguf.tensor("blk.0.weight").unwrap().bytes, [2; 80]);
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let mut plan = GgufPlan::new();
    plan.string("key", "value").unwrap();
    let invalid = |result: Result<(), GgufWriteError>| match result {
        Err(GgufWriteError::Invalid(problem)) => problem,
        other => panic!("{other:?}"),
    };
    let problem = invalid(plan.string("key", "again"));
    assert!(matches!(problem, GgufProblem::DuplicateKey { .. }));
    let problem = invalid(plan.string(&"k".repeat(65_536), "value"));
    assert!(matches!(problem, GgufProblem::NameTooLong { .. }));
    let problem = invalid(plan.value("general.alignment", Value::U32(3)));
    assert!(matches!(problem, GgufProblem::InvalidAlignment { found: 3 }));
    let problem = invalid(plan.tensor("weight", &[33], BlockType::Q8_0));
    assert!(matches!(problem, GgufProblem::PartialBlock { .. }));
    let problem = invalid(plan.tensor("weight", &[], BlockType::F32));
    assert!(matches!(problem, GgufProblem::InvalidDimensionCount { .. }));
    plan.tensor("weight", &[32], BlockType::Q8_0).unwrap();
    let problem = invalid(plan.tensor("weight", &[32], BlockType::Q8_0));
    assert!(matches!(problem, GgufProblem::DuplicateTensor { .. }));
}

#[test]
fn the_writer_wants_the_planned_tensors() {
    let begin = || {
        let mut plan = GgufPlan::new();
        plan.tensor("weight", &[32], BlockType::Q8_0).unwrap();
        plan.begin(Vec::new()).unwrap()
    };
    assert!(matches!(
        begin().tensor(&[0; 33]),
        Err(GgufWriteError::WrongTensorBytes { expected_bytes: 34, found_bytes: 33, .. })
    ));
    assert!(matches!(begin().finish(), Err(GgufWriteError::MissingTensor { .. })));
    let mut writer = begin();
    writer.tensor(&[0; 34]).unwrap();
    assert!(matches!(writer.tensor(&[0; 34]), Err(GgufWriteError::UnplannedTensor)));
}

/// Metadata a test can make up.
#[derive(Clone, Debug)]
enum Made {
    U32(u32),
    I64(i64),
    F32(f32),
    Bool(bool),
    Text(Vec<u8>),
    Texts(Vec<Vec<u8>>),
    I32s(Vec<i32>),
    Bools(Vec<bool>),
}

fn made() -> impl Strategy<Value = Made> {
    prop_oneof![
        any::<u32>().prop_map(Made::U32),
        any::<i64>().prop_map(Made::I64),
        any::<f32>().prop_map(Made::F32),
        any::<bool>().prop_map(Made::Bool),
        any::<Vec<u8>>().prop_map(Made::Text),
        any::<Vec<Vec<u8>>>().prop_map(Made::Texts),
        any::<Vec<i32>>().prop_map(Made::I32s),
        any::<Vec<bool>>().prop_map(Made::Bools),
    ]
}

fn shape() -> impl Strategy<Value = (Vec<u64>, BlockType)> {
    let dims = proptest::collection::vec(1..4_u64, 1..=4);
    (dims, proptest::sample::select(&BlockType::ALL[..])).prop_map(|(mut dims, block_type)| {
        dims[0] *= block_type.block_len() as u64;
        (dims, block_type)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(
        entries in proptest::collection::btree_map("[a-z.é]{0,12}", made(), 0..8),
        shapes in proptest::collection::vec(shape(), 0..5),
        alignment_bits in 0..8_u32,
    ) {
        let mut plan = GgufPlan::new();
        plan.value("general.alignment", Value::U32(1 << alignment_bits)).unwrap();
        for (key, made) in &entries {
            match made {
                Made::U32(value) => plan.value(key, Value::U32(*value)),
                Made::I64(value) => plan.value(key, Value::I64(*value)),
                Made::F32(value) => plan.value(key, Value::F32(*value)),
                Made::Bool(value) => plan.value(key, Value::Bool(*value)),
                Made::Text(text) => plan.value(key, Value::String(text)),
                Made::Texts(texts) => plan.strings(key, texts),
                Made::I32s(values) => plan.i32s(key, values),
                Made::Bools(values) => plan.bools(key, values),
            }
            .unwrap();
        }
        for (idx, (dims, block_type)) in shapes.iter().enumerate() {
            plan.tensor(&format!("tensor.{idx}"), dims, *block_type).unwrap();
        }
        let mut writer = plan.begin(Vec::new()).unwrap();
        for (idx, (dims, block_type)) in shapes.iter().enumerate() {
            let n_weights = dims.iter().product::<u64>() as usize;
            writer.tensor(&vec![idx as u8; block_type.row_bytes(n_weights).unwrap()]).unwrap();
        }
        let file = writer.finish().unwrap();

        let gguf = Gguf::from_bytes(file.clone()).unwrap();
        let metadata = gguf.metadata();
        for (key, made) in &entries {
            match made {
                Made::U32(value) => prop_assert_eq!(metadata.u32(key).unwrap(), *value),
                Made::I64(value) => prop_assert_eq!(metadata.get(key), Some(Value::I64(*value))),
                Made::F32(value) => {
                    prop_assert_eq!(metadata.f32(key).unwrap().to_bits(), value.to_bits());
                }
                Made::Bool(value) => prop_assert_eq!(metadata.bool(key).unwrap(), *value),
                Made::Text(text) => prop_assert_eq!(metadata.bytes(key).unwrap(), text),
                Made::Texts(texts) => {
                    prop_assert_eq!(&metadata.strings(key).unwrap().collect::<Vec<_>>(), texts);
                }
                Made::I32s(values) => prop_assert_eq!(&metadata.i32s(key).unwrap(), values),
                Made::Bools(values) => prop_assert_eq!(&metadata.bools(key).unwrap(), values),
            }
        }
        for (idx, (dims, _)) in shapes.iter().enumerate() {
            let tensor = gguf.require(&format!("tensor.{idx}"), dims).unwrap();
            prop_assert!(tensor.bytes.iter().all(|&byte| byte == idx as u8));
        }
        prop_assert_eq!(copy(&gguf), file);
    }

    #[test]
    fn f03_any_bytes_after_a_valid_start(bytes in any::<Vec<u8>>(), n in 0..4_u64, m in 0..4_u64) {
        if let Ok(gguf) = Raw::header(n, m).bytes(&bytes).open() {
            walk(&gguf);
        }
    }
}

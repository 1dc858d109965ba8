//! Every protocol over real HTTP on the loopback address, from a scripted engine.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail their test")]

mod chat_completions;
mod completions;
mod described;
mod faults;
mod grpc;
mod harness;
mod messages;
mod responses;
mod tools;
mod web;
mod xai;

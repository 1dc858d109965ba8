//! Every protocol over real HTTP on the loopback address, from a scripted engine.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail their test")]

mod accounts;
mod adapters;
mod chat_completions;
mod completions;
mod described;
mod embeddings;
mod faults;
mod filter;
mod grpc;
mod harness;
mod late;
mod matrix;
mod messages;
mod observed;
mod oidc;
mod people;
mod responses;
mod rewards;
mod tools;
mod web;
mod xai;

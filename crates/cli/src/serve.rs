//! `rapport serve`, wired to a model in this process.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use rapport_cli::pull::{self, DEFAULT_MODEL, Paths};
use rapport_local::{DEFAULT_KV_TOKENS, LocalModel, LocalOptions};
use rapport_server::{Server, ServerConfig};
use tokio::signal::unix::{SignalKind, signal};

use crate::options::{AdapterOptions, ComputeOptions};

#[derive(Debug, Args)]
pub(crate) struct ServeCommand {
    /// A model of the catalogue, or the path of a .gguf file
    #[arg(long, default_value = DEFAULT_MODEL)]
    model: String,
    /// The address to listen on; one that others can reach needs RAPPORT_API_KEY
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// 0 takes any that is free
    #[arg(long, default_value = "8080")]
    port: u16,
    /// A name under which the server may be called, beside its addresses and localhost
    #[arg(long, value_name = "NAME")]
    host_name: Vec<String>,
    /// Tokens of all conversations together that stay in memory, at most
    #[arg(long, default_value_t = NonZeroUsize::new(DEFAULT_KV_TOKENS).expect("some tokens"))]
    kv_tokens: NonZeroUsize,
    #[command(flatten)]
    adapter: AdapterOptions,
    #[command(flatten)]
    compute: ComputeOptions,
}

/// Serves until SIGINT or SIGTERM; replies that are being made may end first.
pub(crate) fn run(
    options: ServeCommand,
    api_key: Option<String>,
    paths: &Paths,
) -> anyhow::Result<()> {
    let path = pull::resolve(&options.model, paths)?;
    let local =
        LocalOptions { kv_tokens: options.kv_tokens.get(), adapter: options.adapter.open()? };
    let model = LocalModel::open(&path, options.compute.compute(), &local)?;
    let address = SocketAddr::new(options.host, options.port);
    let config =
        ServerConfig { host_names: options.host_name, api_key, ..ServerConfig::new(address) };
    // The engine has the cores; HTTP needs little beside it.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the threads of the server")?;
    runtime.block_on(async {
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut terminated = signal(SignalKind::terminate())?;
        let server = Server::listen(config, Arc::new(model)).await?;
        crate::say(format_args!("rapport: {} at http://{}", options.model, server.address()?));
        let stop = async move {
            tokio::select! {
                _ = interrupted.recv() => {}
                _ = terminated.recv() => {}
            }
            crate::say(format_args!(
                "rapport: ending; replies that are being made have half a minute"
            ));
        };
        server.run(stop).await;
        Ok(())
    })
}

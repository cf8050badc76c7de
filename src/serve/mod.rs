//! The studio in the browser: a page and an API over HTTP, for the networks of one run.
//!
//! ```text
//! clients ── tokio's threads: listen ── guard ── routes ── answers ──► queue ──► worker: Studio, the thread that computes
//!                                                   ▲                               │
//!                                                   └───────── events ◄─────────────┘
//! ```

mod addresses;
mod answers;
mod api;
mod body;
mod guard;
mod limits;
mod listen;
mod metrics;
mod model;
mod problem;
mod queue;
mod routes;
mod state;
mod token;
mod worker;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use self::metrics::Metrics;
use self::model::Model;
use self::queue::Queue;
use self::state::State;
pub use self::token::Token;
pub use self::worker::Studio;

/// How a studio is served.
pub struct Options {
    /// How the page calls the run.
    pub name: String,
    /// What computes, for the page.
    pub device: String,
    pub host: IpAddr,
    /// 0 lets the system choose.
    pub port: u16,
    /// None only on loopback.
    pub token: Option<Token>,
    /// Requests that may wait.
    pub queue: usize,
}

/// A server that has its address and does not answer yet.
pub struct Server {
    runtime: Runtime,
    listener: TcpListener,
    options: Options,
}

/// Threads that wait for clients; they compute nothing.
const THREADS: usize = 2;

impl Server {
    /// Takes the address.
    ///
    /// # Errors
    /// Those of the system: the port is taken, or the address is not this machine's.
    pub fn bind(options: Options) -> std::io::Result<Server> {
        let runtime =
            Builder::new_multi_thread().worker_threads(THREADS).thread_name("http").enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind((options.host, options.port)))?;
        Ok(Server { runtime, listener, options })
    }

    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is set and every request is answered, for minutes at most. The calling thread computes. Whether all were
    /// answered.
    pub fn run(self, studio: &Studio, stop: Arc<AtomicBool>) -> bool {
        let Server { runtime, listener, options } = self;
        let state = Arc::new(State {
            model: Model::of(studio, &options.name, &options.device),
            queue: Queue::new(options.queue),
            metrics: Arc::new(Metrics::new()),
            token: options.token,
            host: options.host,
            is_stopping: AtomicBool::new(false),
            unanswered: AtomicUsize::new(0),
        });
        let router = routes::router(state.clone());
        let served = runtime.spawn(listen::serve(listener, router, state.clone(), stop));
        studio.work(&state.queue, &state.metrics);
        runtime.block_on(served).unwrap_or(false)
    }
}

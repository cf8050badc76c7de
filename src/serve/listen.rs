//! Connections: how many, how long, and their end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::state::State;
use crate::error::note;

/// Connections at a time; more wait in the system's own queue.
const CONNECTIONS: usize = 512;
/// The head of a request, in bytes and in lines, and how long it may take.
const HEAD: usize = 16 * 1024;
const HEADERS: usize = 64;
const HEAD_SECONDS: Duration = Duration::from_secs(10);
/// A connection is ended after this, so that one whose client never reads has an end.
const LIFE: Duration = Duration::from_secs(600);
/// How long requests may go on once the server stops, and connections once they know.
const DRAIN: Duration = Duration::from_secs(180);
const GOODBYE: Duration = Duration::from_secs(5);

/// Accepts connections until `stop` is set and all requests are answered, or take too long. Whether all were.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    state: Arc<State>,
    stop: Arc<AtomicBool>,
) -> bool {
    let (tell, heard) = watch::channel(false);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let accept = accept(&listener, &router, &places, &heard);
    let all_answered = tokio::select! {
        () = accept => false,
        all = drained(&state, &stop) => all,
    };
    drop(listener);
    state.queue.close();
    let _ = tell.send(true);
    let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
    let _ = timeout(2 * GOODBYE, places.acquire_many(all)).await;
    all_answered
}

async fn accept(
    listener: &TcpListener,
    router: &Router,
    places: &Arc<Semaphore>,
    heard: &watch::Receiver<bool>,
) {
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = connection(stream, router.clone(), heard.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                // No more files may be open, or the client is gone already.
                if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
                {
                    note(format!("error: no connection could be accepted: {error}"));
                    sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }
}

/// Serves one connection to its end. Clients that break off are no news.
async fn connection(stream: TcpStream, router: Router, mut heard: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_SECONDS)
        .max_buf_size(HEAD)
        .max_headers(HEADERS)
        .half_close(true);
    let served = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut served = std::pin::pin!(served);
    tokio::select! {
        _ = served.as_mut() => return,
        _ = heard.wait_for(|stop| *stop) => {}
        () = sleep(LIFE) => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = timeout(GOODBYE, served).await;
}

/// Ends once `stop` is set and nothing is left to answer, or not within [`DRAIN`]. What comes meanwhile is answered with 503.
async fn drained(state: &State, stop: &AtomicBool) -> bool {
    while !stop.load(Relaxed) {
        sleep(Duration::from_millis(50)).await;
    }
    state.is_stopping.store(true, Relaxed);
    let since = Instant::now();
    let at_work = || state.unanswered.load(Relaxed) + state.metrics.in_flight.load(Relaxed) > 0;
    while at_work() && since.elapsed() < DRAIN {
        sleep(Duration::from_millis(20)).await;
    }
    !at_work()
}

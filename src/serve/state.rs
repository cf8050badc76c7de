//! What all requests share.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use super::metrics::Metrics;
use super::model::Model;
use super::queue::Queue;
use super::token::Token;

pub(super) struct State {
    pub model: Model,
    pub queue: Queue,
    pub metrics: Arc<Metrics>,
    pub token: Option<Token>,
    pub host: IpAddr,
    pub is_stopping: AtomicBool,
    /// Requests that have no answer yet.
    pub unanswered: AtomicUsize,
}

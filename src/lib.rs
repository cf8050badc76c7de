pub mod config;
pub mod data;
pub mod engine;
pub mod error;
pub mod mirrorgan;

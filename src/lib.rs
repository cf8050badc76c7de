//! MirrorGAN and AttnGAN on a tensor engine of our own.
//!
//! ```text
//!                    "a small red bird with black wings"
//!                                   │
//!              STEM text encoder ── words w, sentence s
//!                                   │
//!   noise z ──► F_0 ──► h_0 ──► GLAM F_1 ──► h_1 ──► GLAM F_2 ──► h_2      attention over w and s
//!                        │                    │                    │
//!                     64² I_0             128² I_1             256² I_2
//!                        │                    │                    │
//!                       D_0                  D_1                  D_2      real? and of this sentence?
//!                                                                  ├────► STREAM: I_2 → caption again
//!                                                                  └────► DAMSM: does I_2 match the words?
//! ```
//!
//! Modules in the order of their floors: a module uses only those above it, and not its neighbors in a group
//! (`tests/tidy.rs` has the list).

pub mod error;

pub mod files;

pub mod engine;

pub mod data;
pub mod mirrorgan;

pub mod bench;
pub mod config;

pub mod render;
pub mod run;

pub mod infer;

pub mod eval;
pub mod import;

pub mod train;

pub mod report;
pub mod serve;

pub mod cli;

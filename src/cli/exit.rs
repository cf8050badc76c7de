//! Exit codes. Errors of usage end with 2, as clap does.

use std::process::ExitCode;

use crate::error::note;

pub const FINISHED: u8 = 0;
pub const ERROR: u8 = 1;
/// Saved after Ctrl-C, SIGTERM or SIGHUP: 128 and the number of SIGINT, as shells have it.
pub const INTERRUPTED: u8 = 130;
/// Saved at the time limit; go on with `--resume`. `EX_TEMPFAIL` of sysexits.h: try again.
pub const TIME_IS_UP: u8 = 75;

/// Ends a call that the same command goes on with.
pub fn interrupted() -> ExitCode {
    note("interrupted: what was done is kept; the same command goes on from there");
    ExitCode::from(INTERRUPTED)
}

//! Exit codes. Errors of usage end with 2, as clap does.

pub const FINISHED: u8 = 0;
pub const ERROR: u8 = 1;
/// Saved after Ctrl-C, SIGTERM or SIGHUP: 128 and the number of SIGINT, as shells have it.
pub const INTERRUPTED: u8 = 130;
/// Saved at the time limit; go on with `--resume`. `EX_TEMPFAIL` of sysexits.h: try again.
pub const TIME_IS_UP: u8 = 75;

//! `engine serve`

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};

use super::call::{program, quoted};
use super::infer::{default_batch, parse_weights};
use super::{Machine, say, signals};
use crate::engine::device;
use crate::engine::tensor::{Precision, set_precision};
use crate::error::note;
use crate::files::whole;
use crate::infer::Weights;
use crate::run::RunFolder;
use crate::serve::{Options, Server, Studio, Token};

/// Serve a run as a page for the browser, with an API
///
/// Captions become pictures as one watches: every stage as it is made, where each word looks, words swapped under the same noise,
/// seeds side by side. The page and its API (/openapi.json; docs/serve.md has examples) answer on this machine alone unless --host
/// names another address, which needs --token-file. Ctrl-C answers what was asked for and ends.
#[derive(clap::Args)]
pub struct Args {
    /// The run folder that `engine train --out` wrote
    #[arg(long, default_value = "runs/demo", value_name = "DIR")]
    run: PathBuf,
    /// The port; 0 lets the system choose
    #[arg(long, default_value_t = 8080, value_name = "N")]
    port: u16,
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS", value_parser = parse_host)]
    host: IpAddr,
    /// A file with the token that clients must send (Authorization: Bearer TOKEN)
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Requests that may wait; more are answered with 429
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    queue: u32,
    /// Pictures that are computed together [default: as many as their size suggests]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: Option<u32>,
    /// The generator's weights: a STEP of the GAN phase; best; or raw [default: the averaged weights of the newest checkpoint]
    #[arg(long, value_name = "STEP|best|raw", value_parser = parse_weights)]
    checkpoint: Option<Weights>,
    #[command(flatten)]
    machine: Machine,
    /// How activations are stored and multiplied; tf32 and bf16 need CUDA
    #[arg(long, default_value = "f32", value_parser = super::precision())]
    precision: Precision,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let token = args.token()?;
    let on_cpu = args.machine.open()?;
    set_precision(args.precision)?;
    let train = |error| anyhow!("{error}; {} train --dataset demo makes one in a few minutes", program());
    let run = RunFolder::open(&args.run).map_err(train)?;
    let side = run.config()?.largest_side();
    let batch = args.batch.map_or(default_batch(side), |batch| batch as usize);
    let options = Options {
        name: name(run.root()),
        device: device::current().to_string(),
        host: args.host,
        port: args.port,
        token,
        queue: args.queue as usize,
    };
    let server = Server::bind(options).map_err(|error| args.no_address(&error))?;
    let studio = Studio::open(&run, args.checkpoint.unwrap_or_default(), batch)?;
    on_cpu.into_iter().for_each(note);
    let stop = signals::stop_flag("request")?;
    say(format!(
        "{} is at http://{}/ (Ctrl-C ends it)",
        quoted(&run.root().to_string_lossy()),
        server.address()?
    ))?;
    match server.run(&studio, stop) {
        true => note("stopped: every request was answered"),
        false => note("stopped: requests that took too long were given up"),
    }
    Ok(())
}

impl Args {
    /// The token; others than this machine's users must show one.
    fn token(&self) -> anyhow::Result<Option<Token>> {
        let Some(file) = &self.token_file else {
            if !self.host.is_loopback() {
                bail!(
                    "--host {} lets others reach this machine: give a token with --token-file FILE (openssl rand -hex 32 > FILE makes one)",
                    self.host
                );
            }
            return Ok(None);
        };
        let token = Token::read(file)?;
        if is_open(file) {
            note(format!("note: others can read {0}: chmod 600 {0}", quoted(&file.to_string_lossy())));
        }
        Ok(Some(token))
    }

    fn no_address(&self, error: &std::io::Error) -> anyhow::Error {
        let address = SocketAddr::new(self.host, self.port);
        anyhow!("cannot listen on {address}: {error}; take another with --port N, or --port 0")
    }
}

fn name(run: &Path) -> String {
    whole(run).file_name().map_or("run".to_string(), |name| name.to_string_lossy().into_owned())
}

/// Whether other users of this machine may read a file.
#[cfg(unix)]
fn is_open(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file).is_ok_and(|of| of.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_open(_: &Path) -> bool {
    false
}

fn parse_host(text: &str) -> Result<IpAddr, String> {
    match text {
        "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
        _ => text.parse().map_err(|_| "an address such as 127.0.0.1, ::1 or 0.0.0.0".to_string()),
    }
}

//! Tells the binary what it was built from and for: git revision, target, CPU features.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Some(folder) = git(&["rev-parse", "--absolute-git-dir"]) {
        println!("cargo:rerun-if-changed={folder}/HEAD");
        println!("cargo:rerun-if-changed={folder}/logs/HEAD");
    }
    let revision = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_string());
    println!("cargo:rustc-env=ENGINE_REVISION={revision}");
    println!("cargo:rustc-env=ENGINE_TARGET={}", env::var("TARGET").unwrap_or_default());
    println!("cargo:rustc-env=ENGINE_FEATURES={}", env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default());
}

/// What git says, or nothing outside a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_string())
}

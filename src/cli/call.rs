//! This call of the program, as it was typed and as messages and files tell it.

use std::path::Path;

use crate::engine::device;
use crate::run::Call;

/// This call, for the run's log.
pub fn call() -> Call {
    Call {
        command: std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect(),
        version: env!("CARGO_PKG_VERSION").to_string(),
        revision: env!("ENGINE_REVISION").to_string(),
        device: device::current().to_string(),
        changes: Vec::new(),
    }
}

/// Version, device and command line, as comments on top of the written configuration.
pub fn header(call: &Call) -> String {
    let Call { version, revision, device, command, .. } = call;
    let command = command.join(" ").replace(char::is_control, " ");
    format!("# engine {version} (revision {revision})\n# on {device}\n# {command}\n")
}

/// The command that goes on with a run.
pub fn resume_command(run: &Path) -> String {
    format!("{} train --resume {}", program(), quoted(&run.to_string_lossy()))
}

/// How the reader called this program.
pub fn program() -> String {
    let name = std::env::args_os().next().unwrap_or_else(|| "engine".into());
    quoted(&name.to_string_lossy())
}

/// A word of a command line, in quotes where a shell needs them.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@%,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_as_a_shell_reads_it() {
        assert_eq!(quoted("target/release/engine"), "target/release/engine");
        assert_eq!(quoted("my run"), "'my run'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}

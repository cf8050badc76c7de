//! What a terminal shows, through a pseudo-terminal of `script`'s.
#![cfg(target_os = "linux")]

mod binary;
mod device;

use std::process::Command;

use binary::{assert_says, engine, training};

/// The tiny training on a terminal of this kind and width; none without `script`.
fn on_terminal(kind: &str, columns: usize) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let train = training(folder.path().join("run"));
    let words = std::iter::once(train.get_program()).chain(train.get_args());
    let words: Vec<String> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let line = format!("stty rows 24 cols {columns}; {} --device cpu", words.join(" "));
    let output = Command::new("script")
        .args(["-q", "-e", "-c", &line, "/dev/null"])
        .env("TERM", kind)
        .stdin(std::process::Stdio::null())
        .output();
    let Ok(output) = output else {
        device::skip("there is no `script` here");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    Some(text)
}

#[test]
fn a_dumb_terminal_gets_plain_lines() {
    let Some(text) = on_terminal("dumb", 80) else { return };
    assert_says(&text, &["damsm 2/2", "captioner 2/2", "gan 2/2", "R-precision", "is ready"]);
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn a_line_that_renews_itself_fits() {
    for columns in [40, 80] {
        let Some(text) = on_terminal("xterm", columns) else { return };
        assert!(text.contains('\u{1b}'), "{text:?}");
        let plain = console::strip_ansi_codes(&text).into_owned();
        assert_says(&plain, &["damsm 2/2", "gan 2/2", "is ready"]);
        // A note above the bar is padded up to the end of its line, and so is a bar that ends; other text follows.
        let mut texts = plain;
        for phase in ["damsm", "captioner", "gan"] {
            texts = texts.replace(phase, &format!("\n{phase}"));
        }
        for line in texts.split(['\r', '\n']).filter(|line| line.contains(" left")) {
            assert!(line.chars().nth(columns - 1).is_none_or(|letter| letter == ' '), "{line:?}");
        }
    }
}

#[test]
fn help_and_usage() {
    let help = engine(&["--help"]);
    assert_eq!(help.code, 0);
    assert_says(&help.out, &["Exit codes:", "75 ", "130 "]);
    for wrong in [["info", "--threads", "5000"], ["info", "--threads", "x"], ["infer", "--run", "runs/x"]] {
        let output = engine(&wrong);
        assert_eq!(output.code, 2, "{wrong:?}: {}", output.err);
    }
}

//! `engine bench` as users meet it. What it times is not judged here.

mod device;

use std::process::{Command, Output};

use device::Emulated;

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_engine"));
    command.arg("bench").args(arguments);
    command
}

fn out(output: &Output) -> String {
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{err}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn refused(arguments: &[&str]) -> String {
    let output = bench(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_layer_is_timed_in_its_three_passes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bench.json");
    let arguments =
        ["--device", "cpu", "--quick", "upsample2x_conv3x3", "upsample1", "--json", path.to_str().unwrap()];
    let text = out(&bench(&arguments).output().unwrap());
    for part in ["ceilings: copy of", "forward", "input gradient", "weight gradient", "GFLOP/s"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(json["device"], "cpu");
    assert_eq!(json["emulated"], false);
    let cases = json["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let number = |key: &str| case[key].as_f64().unwrap_or_else(|| panic!("no {key} in {case}"));
        assert!(number("seconds") > 0.0 && number("of_copy") > 0.0);
        let share = number("gflop_per_second_executed") / number("gflop_per_second");
        assert!((share - 4.0 / 9.0).abs() < 1e-6, "{share}");
    }
}

#[test]
fn what_there_is_is_listed() {
    let all = out(&bench(&["--list", "--device", "cpu"]).output().unwrap());
    let large = out(&bench(&["--list", "--large", "--device", "cpu"]).output().unwrap());
    assert!(large.lines().count() > 300 && all.lines().count() > large.lines().count());
    assert!(all.contains("conv2d D256 img_code_s64.0 4x4/2 1024>2048 at 8x8 batch 1 weight gradient\n"));
    let batch = out(&bench(&["--list", "--device", "cpu", "--batch", "4", "lstm", "text"]).output().unwrap());
    assert!(batch.contains("batch 4 forward"), "{batch}");
}

#[test]
fn mistakes_are_explained() {
    let error = refused(&["--device", "cpu", "corss_attention"]);
    assert!(error.contains("holds 'corss_attention'") && error.contains("cross_attention"), "{error}");
    assert!(refused(&["--device", "cpu", "conv2d", "lstm"]).contains("nothing holds all of"));
    assert!(refused(&["--device", "cpu", "--precision", "bf16", "pool"]).contains("f32"));
}

#[test]
fn on_the_emulated_driver_it_says_what_its_times_are_worth() {
    let Some(emulated) = Emulated::new(true) else { return };
    let arguments = ["--device", "cuda:0", "--quick", "--precision", "bf16", "tanh"];
    let text = out(&emulated.run(&mut bench(&arguments)));
    assert!(text.contains("say nothing about a GPU"), "{text}");
    assert!(text.contains("tanh forward") && text.contains("tanh backward"), "{text}");
    let refused = emulated.run(&mut bench(&["--device", "cuda:0", "h_net3.upsample"]));
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(error.contains("too large for the emulated driver"), "{error}");
}

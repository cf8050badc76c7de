//! `engine report`: one page that holds all it shows, whatever a run has or lacks.

mod binary;

use std::path::Path;

use binary::{assert_says, copied_run, engine, read, refused};
use roxmltree::{Document, Node, ParsingOptions};

/// Writes the report of a run, and returns page and notes.
fn written(run: &str, more: &[&str]) -> (String, String) {
    let output = engine(&[&["report", run, "--device", "cpu"][..], more].concat());
    assert_eq!(output.code, 0, "{}", output.err);
    assert_says(&output.out, &["report.html", "open it in a browser"]);
    (read(Path::new(run).join("report.html")), output.err)
}

/// Reads the page as XML, which finds every element that is not closed and every character that is not escaped.
fn with_page<T>(html: &str, look: impl FnOnce(Node) -> T) -> T {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let page = Document::parse_with_options(html, options).unwrap_or_else(|e| panic!("not well-formed: {e}"));
    look(page.root_element())
}

fn count(page: Node, name: &str) -> usize {
    page.descendants().filter(|node| node.has_tag_name(name)).count()
}

fn text_of(page: Node, section: &str) -> String {
    let found = page.descendants().find(|node| node.attribute("id") == Some(section));
    let found = found.unwrap_or_else(|| panic!("no section {section}"));
    found
        .descendants()
        .filter_map(|node| node.text().filter(|_| node.is_text()))
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn a_report_holds_every_section_and_loads_nothing() {
    let (_folder, run) = copied_run();
    let pictures = engine(&["infer", "--run", &run, "a red bird"]);
    assert_eq!(pictures.code, 0, "{}", pictures.err);
    let (html, notes) = written(&run, &["--captions", "2"]);
    assert!(!notes.contains("note: "), "{notes}");
    with_page(&html, |page| {
        assert_says(
            &text_of(page, "metrics"),
            &["R-precision", "1 of 3 captions by this run's own DAMSM (small)"],
        );
        assert_says(&text_of(page, "curves"), &["Losses of the discriminators", "Norms of the gradients"]);
        assert_says(&text_of(page, "samples"), &["Step 2", "bird"]);
        assert_says(&text_of(page, "attention"), &["gan/step-000002"]);
        let data = text_of(page, "data");
        assert_says(&data, &["demo", "images held out", "fingerprint"]);
        assert_says(&text_of(page, "configuration"), &["not those of the preset demo", "gan.schedule.steps"]);
        assert_says(&text_of(page, "calls"), &["finished", "gan 0 to 2", env!("CARGO_PKG_VERSION")]);
        let generated = text_of(page, "generated");
        assert_says(&generated, &["a red bird", "The newest 1 of 1 samples"]);
        assert!(count(page, "svg") >= 8);
        let words = page.descendants().filter(|node| node.attribute("class") == Some("word")).count();
        let heats = page.descendants().filter(|node| node.attribute("class") == Some("heat")).count();
        assert!(words > 4 && words == heats, "{words} words, {heats} maps");
        for node in page.descendants() {
            for name in ["src", "href"] {
                let inside = |address: &str| address.starts_with("data:image/") || address.starts_with('#');
                assert!(node.attribute(name).is_none_or(inside), "{:?}", node.attribute(name));
            }
            assert!(!["link", "iframe", "object"].contains(&node.tag_name().name()));
        }
    });
    for address in ["http://", "https://", "@import", "url("] {
        assert!(!html.contains(address), "{address}");
    }
}

#[test]
fn markup_of_a_run_shows_as_text() {
    let (_folder, run) = copied_run();
    let hostile = "</style><script>alert(1)</script> & \"bird\" 'red'";
    let samples = Path::new(&run).join("samples");
    std::fs::write(samples.join("captions.txt"), format!("{hostile}\n")).unwrap();
    let calls = read(Path::new(&run).join("runs.jsonl")).replace("--dataset", "<script>&amp;");
    std::fs::write(Path::new(&run).join("runs.jsonl"), calls).unwrap();
    let (html, _) = written(&run, &[]);
    with_page(&html, |page| {
        assert_eq!(count(page, "script"), 1, "our own alone");
        assert_says(&text_of(page, "samples"), &[hostile]);
        assert_says(&text_of(page, "calls"), &["<script>&amp;"]);
    });
}

#[test]
fn what_cannot_be_read_is_named_and_the_rest_is_shown() {
    let (_folder, run) = copied_run();
    let file = |name: &str| Path::new(&run).join(name);
    std::fs::create_dir_all(file("eval")).unwrap();
    std::fs::write(file("eval/one.json"), "{}").unwrap();
    std::fs::write(file("samples/step-000001.png"), "not a picture").unwrap();
    std::fs::write(file("run.json"), "[").unwrap();
    let log = read(file("logs/gan/metrics.jsonl")) + "{\"step\":1,\n";
    std::fs::write(file("logs/gan/metrics.jsonl"), log).unwrap();
    let (html, notes) = written(&run, &["--captions", "0"]);
    let parts = [
        "eval/one.json: not an evaluation",
        "step-000001.png",
        "run.json",
        "metrics.jsonl: damaged lines, left out: 1",
    ];
    assert_says(&notes, &parts);
    with_page(&html, |page| {
        assert_says(&html, &["Not all of this run could be read", "step-000001.png"]);
        assert_says(&text_of(page, "curves"), &["Losses of the discriminators"]);
        assert_says(&text_of(page, "attention"), &["Left out, as was asked for."]);
    });
}

#[test]
fn a_run_of_an_earlier_version_says_what_it_lacks() {
    let (_folder, run) = copied_run();
    let file = |name: &str| Path::new(&run).join(name);
    for phase in ["damsm", "captioner", "gan"] {
        std::fs::remove_file(file("logs").join(phase).join("metrics.jsonl")).unwrap();
    }
    for name in ["run.json", "runs.jsonl"] {
        std::fs::remove_file(file(name)).unwrap();
    }
    std::fs::remove_dir_all(file("samples")).unwrap();
    let (html, notes) = written(&run, &[]);
    assert!(!notes.contains("note: "), "{notes}");
    with_page(&html, |page| {
        assert_says(&text_of(page, "curves"), &["logged for TensorBoard alone"]);
        assert_says(&text_of(page, "samples"), &["There are no sample grids"]);
        assert_says(&text_of(page, "data"), &["versions before 0.3.0"]);
        assert_says(&text_of(page, "calls"), &["keeps no log of calls"]);
    });
}

#[test]
fn what_is_no_run_is_refused() {
    let (_folder, run) = copied_run();
    for phase in ["damsm", "captioner", "gan"] {
        std::fs::remove_dir_all(Path::new(&run).join(phase)).unwrap();
    }
    assert_says(&refused(&["report", &run]), &["nothing is trained here yet"]);
    let empty = tempfile::tempdir().unwrap();
    let empty = empty.path().to_str().unwrap();
    assert_says(&refused(&["report", empty]), &["not a run", "config.toml"]);
    assert_says(
        &refused(&["report", binary::shared_run(), "--out", empty]),
        &["a folder; --out names the file"],
    );
    assert!(!Path::new(&run).join("report.html").exists());
}

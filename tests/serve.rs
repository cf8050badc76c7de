//! `engine serve` as clients meet it: the API, hostile requests, overload, tokens, the end.
#![cfg(unix)]

mod binary;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use binary::{assert_says, command, hearing, refused, shared_run, succeeds};
use serde_json::{Value, json};

/// A server on a port that the system chose; it is ended with the value.
struct Server {
    child: Child,
    address: SocketAddr,
    /// What it said on standard error so far.
    said: Arc<Mutex<String>>,
}

impl Server {
    fn start(more: &[&str]) -> Server {
        let mut serve = command();
        serve.args(["serve", "--run", shared_run(), "--port", "0"]).args(more);
        let mut child = hearing(&serve, "").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (heard, lines) = (said.clone(), BufReader::new(child.stderr.take().unwrap()).lines());
        thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| *heard.lock().unwrap() += &(line + "\n"))
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        let address = address.unwrap_or_else(|| panic!("no address: {line} {}", said.lock().unwrap()));
        Server { child, address: address.parse().unwrap(), said }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Sends bytes as they are and reads to the end of the connection.
    fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect();
        // A server that refuses early may not read all.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        Answer::of(&answer)
    }

    fn get(&self, path: &str) -> Answer {
        self.raw(&self.head("GET", path, "", 0))
    }

    fn head(&self, method: &str, path: &str, more: &str, length: usize) -> Vec<u8> {
        let address = self.address;
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{more}Content-Length: {length}\r\n\r\n")
            .into_bytes()
    }

    fn post_bytes(&self, path: &str, body: &[u8]) -> Answer {
        let head = self.head("POST", path, "Content-Type: application/json\r\n", body.len());
        self.raw(&[&head, body].concat())
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_bytes(path, body.to_string().as_bytes())
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// A metric without labels.
    fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        assert!(thread::panicking() || !self.said().contains("panicked"), "{}", self.said());
    }
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn of(bytes: &[u8]) -> Answer {
        let at = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(bytes.len());
        let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
        let mut body = bytes.get(at + 4..).unwrap_or_default().to_vec();
        if head.to_lowercase().contains("transfer-encoding: chunked") {
            body = without_chunks(&body);
        }
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Answer { status, head, body }
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {} {}", self.head, self.text()))
    }

    /// The body of an answer that all went well.
    #[track_caller]
    fn good(&self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// The error of an answer of this status, and its hint.
    #[track_caller]
    fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{} {}", self.head, String::from_utf8_lossy(&self.body));
        let value = self.json();
        assert!(value["error"].is_string() && value.get("hint").is_some(), "{value}");
        format!("{} {}", value["error"], value["hint"])
    }

    fn header(&self, name: &str) -> Option<&str> {
        let line = |line: &'_ str| line.to_lowercase().starts_with(&format!("{name}:"));
        self.head.lines().find(|found| line(found)).map(|line| line.split_once(':').unwrap().1.trim())
    }

    /// Kinds and values of server-sent events.
    fn events(&self) -> Vec<(String, Value)> {
        let text = self.text();
        let event = |block: &str| {
            let kind = block.strip_prefix("event: ")?.split('\n').next()?;
            Some((kind.to_string(), serde_json::from_str(block.split("data: ").nth(1)?).unwrap()))
        };
        text.split("\n\n").filter_map(event).collect()
    }
}

/// The content of a chunked body.
fn without_chunks(mut body: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some(end) = body.windows(2).position(|two| two == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        let Some(chunk) = body.get(end + 2..end + 2 + length) else { break };
        content.extend_from_slice(chunk);
        body = body.get(end + 4 + length..).unwrap_or_default();
    }
    content
}

fn pixels(png: &[u8]) -> (u32, u32, Vec<u8>) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    (info.width, info.height, pixels)
}

fn picture(stage: &Value) -> (u32, u32, Vec<u8>) {
    pixels(&STANDARD.decode(stage["png"].as_str().unwrap()).unwrap())
}

const CAPTION: &str = "a small red bird with black wings";

#[test]
fn a_picture_is_the_one_that_infer_makes() {
    let out = tempfile::tempdir().unwrap();
    let mut infer = command();
    infer.args(["infer", "--run", shared_run(), CAPTION, "--seeds", "3,8", "--truncation", "0.5", "--out"]);
    succeeds(infer.arg(out.path()));
    let server = Server::start(&[]);
    let asked = json!({ "caption": CAPTION, "seeds": [3, 8], "truncation": 0.5 });
    let answer = server.post("/api/generate", &asked).good();
    assert_eq!(answer["prompt"]["words"].as_array().unwrap().len(), 7);
    for (sample, number) in answer["samples"].as_array().unwrap().iter().zip(1..) {
        let stages = sample["stages"].as_array().unwrap();
        assert_eq!(stages.iter().map(|stage| &stage["side"]).collect::<Vec<_>>(), [8, 16, 32]);
        for stage in stages {
            let name = format!("001-{number}-{}.png", stage["side"]);
            let file = std::fs::read(out.path().join(&name)).unwrap();
            assert!(picture(stage) == pixels(&file), "{name}");
        }
        assert_eq!(stages[0]["attention"], Value::Null);
        let map = &stages[2]["attention"];
        let values = STANDARD.decode(map["values"].as_str().unwrap()).unwrap();
        let [height, width] = [&map["height"], &map["width"]].map(|side| side.as_u64().unwrap() as usize);
        assert_eq!((values.len(), values.iter().max()), (height * width * 7, Some(&255)));
        // At every place the words share one attention.
        let unit = map["largest"].as_f64().unwrap() / 255.0;
        for place in 0..height * width {
            let sum: f64 = (0..7).map(|word| f64::from(values[word * height * width + place]) * unit).sum();
            assert!((sum - 1.0).abs() < 0.05, "{sum}");
        }
        let review = &sample["review"];
        let confidence = review["description"]["confidence"].as_f64().unwrap();
        assert!(confidence > 0.0 && confidence <= 1.0, "{review}");
        let matches = review["match"]["words"].as_array().unwrap();
        assert!(matches.len() == 7 && matches.iter().all(|match_| match_.as_f64().unwrap().abs() <= 1.001));
    }
    // Whatever else is generated with it.
    let alone =
        server.post("/api/generate", &json!({ "caption": CAPTION, "seeds": [8], "truncation": 0.5 })).good();
    assert_eq!(alone["samples"][0]["stages"], answer["samples"][1]["stages"]);
    assert_eq!(alone["samples"][0]["review"], answer["samples"][1]["review"]);
}

#[test]
fn stages_arrive_in_their_order_and_sliders_move_the_picture() {
    let server = Server::start(&[]);
    let events = server.post("/api/stream", &json!({ "caption": CAPTION, "seeds": [5, 6] })).events();
    let kinds: Vec<&str> = events.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!((kinds[0], kinds[kinds.len() - 1]), ("queued", "done"));
    for (sample, seed) in [(0, 5), (1, 6)] {
        let of = |kind: &str| {
            let found = events.iter().filter(|(of, value)| of == kind && value["sample"] == sample);
            found.map(|(_, value)| value.clone()).collect::<Vec<_>>()
        };
        let stages = of("stage");
        assert_eq!(stages.iter().map(|stage| &stage["stage"]).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(stages.iter().all(|stage| stage["seed"] == seed));
        assert_eq!(of("review").len(), 1);
    }
    let plain = json!({ "caption": CAPTION, "seeds": [5], "attention": false, "review": false });
    let last = |changed: Value| {
        let mut asked = plain.clone();
        changed.as_object().unwrap().iter().for_each(|(key, value)| asked[key] = value.clone());
        picture(&server.post("/api/generate", &asked).good()["samples"][0]["stages"][2])
    };
    let first = last(json!({}));
    assert!(first == last(json!({ "noise": 1.0, "sentence": 1.0, "condition": 1, "truncation": null })));
    for changed in [
        json!({ "noise": 0.2 }),
        json!({ "sentence": 3 }),
        json!({ "condition": 3 }),
        json!({ "truncation": 0.1 }),
    ] {
        assert!(first != last(changed.clone()), "{changed}");
    }
    // Without noise no seed matters.
    let silent = |seed: u64| last(json!({ "noise": 0, "condition": 0, "seeds": [seed] }));
    assert!(silent(1) == silent(2));
}

#[test]
fn animations_have_their_frames() {
    use image::AnimationDecoder;
    let server = Server::start(&[]);
    for (asked, frames) in [
        (json!({ "way": "stages" }), 3),
        (json!({ "way": "noise", "seeds": [1, 2, 3], "frames": 7 }), 7),
        (json!({ "way": "caption", "to": "a blue bird", "frames": 4 }), 4),
    ] {
        let mut body = asked.clone();
        body["caption"] = json!(CAPTION);
        let answer = server.post("/api/animate", &body);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("image/gif")), "{asked}");
        let decoder = image::codecs::gif::GifDecoder::new(std::io::Cursor::new(&answer.body)).unwrap();
        assert_eq!(decoder.into_frames().collect_frames().unwrap().len(), frames, "{asked}");
    }
    for (asked, part) in [
        (json!({ "way": "noise" }), "two or more seeds"),
        (json!({ "way": "caption" }), "no caption to go to"),
        (json!({ "way": "noise", "seeds": [0, 1], "frames": 1 }), "2 to 48"),
        (json!({ "way": "noise", "seeds": [0, 1], "frames": 1_000_000_000 }), "2 to 48"),
        (json!({ "way": "elsewhere" }), "unknown variant"),
    ] {
        let mut body = asked.clone();
        body["caption"] = json!(CAPTION);
        assert_says(&server.post("/api/animate", &body).problem(400), &[part]);
    }
}

#[test]
fn the_page_and_its_description_come_with_their_headers() {
    let server = Server::start(&[]);
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/openapi.json", "application/json"),
        ("/health", "application/json"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/api/model", "application/json"),
        ("/api/vocabulary", "application/json"),
        ("/nothing", "application/json"),
    ] {
        let answer = server.get(path);
        assert_eq!(answer.header("content-type"), Some(kind), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert_says(policy, &["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"]);
        assert!(!policy.contains("unsafe") && answer.header("access-control-allow-origin").is_none());
    }
    let model = server.get("/api/model").good();
    assert_eq!((&model["sides"], &model["checkpoint"]), (&json!([8, 16, 32]), &json!("gan/step-000002")));
    assert_eq!((&model["describes"], &model["matches"]), (&json!(true), &json!(true)));
    let words = server.get("/api/vocabulary").good();
    assert!(words["words"].as_array().unwrap().contains(&json!("bird")));
    let read = server.post("/api/prompt", &json!({ "caption": "A redd bird, glorious!" })).good();
    assert_eq!((&read["words"], &read["unknown"][0]["word"]), (&json!(["a", "bird"]), &json!("redd")));
    assert!(read["unknown"][0]["suggestions"].as_array().unwrap().contains(&json!("red")), "{read}");
}

#[test]
fn what_is_wrong_is_said_and_nothing_breaks() {
    let server = Server::start(&[]);
    let many: Vec<u64> = (0..17).collect();
    for (body, status, part) in [
        (json!({ "caption": "xyzzy plugh" }), 422, "not one word"),
        (json!({ "caption": "redd brid" }), 422, "near it: red"),
        (json!({ "caption": "" }), 422, "an empty caption"),
        (json!({ "caption": "红色的鸟" }), 422, "is ASCII"),
        (json!({ "caption": "a bird", "seeds": many }), 400, "at most 16"),
        (json!({ "caption": "a bird", "seeds": [] }), 400, "no seed"),
        (json!({ "caption": "a bird", "seeds": [-1] }), 400, "invalid value"),
        (json!({ "caption": "a bird", "noise": -1 }), 400, "from 0 to 3"),
        (json!({ "caption": "a bird", "sentence": 1e30 }), 400, "from 0 to 3"),
        (json!({ "caption": "a bird", "truncation": 0 }), 400, "above 0"),
        (json!({ "caption": "a bird", "sedes": [1] }), 400, "'sedes' is no key"),
        (json!({ "seeds": [1] }), 400, "missing field `caption`"),
        (json!({ "caption": 7 }), 400, "invalid type"),
        (json!({ "caption": "bird ".repeat(300) }), 400, "1000 characters"),
        (json!([1, 2]), 400, "invalid type"),
        (json!(null), 400, "invalid type"),
    ] {
        for path in ["/api/generate", "/api/stream"] {
            assert_says(&server.post(path, &body).problem(status), &[part]);
        }
    }
    let huge = json!({ "caption": "a".repeat(10_000_000) });
    assert_says(&server.post("/api/generate", &huge).problem(413), &["64 KiB"]);
    assert_says(
        &server.post_bytes("/api/generate", b"{\"caption\": \"\xff\xfe bird\"}").problem(400),
        &["JSON"],
    );
    let deep = [b"{\"caption\":".to_vec(), b"[".repeat(30_000)].concat();
    server.post_bytes("/api/generate", &deep).problem(400);
    let plain = server.head("POST", "/api/generate", "Content-Type: text/plain\r\n", 2);
    server.raw(&[&plain[..], b"{}"].concat()).problem(415);
    server.get("/api/generate").problem(405);
    for path in [
        "/../../etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/page.css/",
        "/api",
        "/%00",
        "/PAGE.CSS",
    ] {
        server.get(path).problem(404);
    }
    let long = format!("/{}", "a".repeat(40_000));
    assert!([414, 431].contains(&server.get(&long).status));
    let line = format!("X-Long: {}\r\n", "a".repeat(40_000));
    assert_eq!(server.raw(&server.head("GET", "/", &line, 0)).status, 431);
    let lines: String = (0..200).map(|i| format!("X-{i}: 1\r\n")).collect();
    assert_eq!(server.raw(&server.head("GET", "/", &lines, 0)).status, 431);
    assert_eq!(server.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n").status, 400);
    assert_eq!(server.get("/health").good()["status"], "ok");
}

/// Numbers that look like chance and are the same at every test.
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

#[test]
fn damaged_bodies_are_answered() {
    let server = Server::start(&[]);
    let generate = json!({ "caption": "a red bird", "seeds": [1, 2], "noise": 0.5, "truncation": 0.5 });
    let animate = json!({ "caption": "a red bird", "seeds": [1, 2], "way": "noise", "frames": 3 });
    let asked = [
        ("/api/generate", generate.clone()),
        ("/api/stream", generate),
        ("/api/prompt", json!({ "caption": "a red bird" })),
        ("/api/animate", animate),
    ];
    let (mut state, mut seen) = (7, BTreeMap::new());
    for round in 0..400 {
        let (path, whole) = &asked[round % 4];
        let mut bytes = whole.to_string().into_bytes();
        for _ in 0..1 + round / 4 % 3 {
            let at = next(&mut state) % bytes.len();
            match next(&mut state) % 4 {
                0 => bytes[at] = next(&mut state) as u8,
                1 => bytes[at] = bytes[(at + 1) % bytes.len()],
                2 => bytes.insert(at, b"\"{}[],:0e-9\\"[next(&mut state) % 12]),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let answer = server.post_bytes(path, &bytes);
        *seen.entry(answer.status).or_insert(0) += 1;
        match answer.status {
            200 => {}
            400 | 422 => drop(answer.problem(answer.status)),
            other => panic!("{other} for {path} {}", String::from_utf8_lossy(&bytes)),
        }
    }
    assert!(seen[&400] > 100 && seen[&200] > 10, "{seen:?}");
    assert_eq!(server.get("/health").good()["status"], "ok");
}

#[test]
fn slow_clients_are_ended_and_hold_nobody_up() {
    let server = Server::start(&[]);
    let mut heads: Vec<TcpStream> = (0..50).map(|_| server.connect()).collect();
    heads.iter_mut().for_each(|stream| stream.write_all(b"GET / HTTP/1.1\r\nHost: local").unwrap());
    let mut body = server.connect();
    body.write_all(&server.head("POST", "/api/generate", "Content-Type: application/json\r\n", 40)).unwrap();
    body.write_all(b"{\"cap").unwrap();
    let began = Instant::now();
    server.post("/api/generate", &json!({ "caption": CAPTION })).good();
    assert!(began.elapsed() < Duration::from_secs(5));
    let mut answer = Vec::new();
    let _ = body.read_to_end(&mut answer);
    assert_says(&Answer::of(&answer).problem(408), &["10 s"]);
    for mut stream in heads {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty() || Answer::of(&rest).status == 408);
    }
    let waited = began.elapsed();
    assert!(waited > Duration::from_secs(8) && waited < Duration::from_secs(30), "{waited:?}");
}

/// Calls `ask` from many threads at once.
fn at_once<T: Send>(count: usize, ask: impl Fn(usize) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let ask = &ask;
        let threads: Vec<_> = (0..count).map(|i| scope.spawn(move || ask(i))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn nothing_is_lost_under_load() {
    let server = Server::start(&[]);
    let expected: Vec<Value> = (0..8)
        .map(|seed| server.post("/api/generate", &json!({ "caption": CAPTION, "seeds": [seed] })).good())
        .collect();
    at_once(64, |client| {
        for round in 0..5 {
            let seed = (client + round) % 8;
            let asked = json!({ "caption": CAPTION, "seeds": [seed] });
            match round % 2 {
                0 => {
                    assert!(server.post("/api/generate", &asked).good() == expected[seed], "client {client}")
                }
                _ => {
                    let events = server.post("/api/stream", &asked).events();
                    assert_eq!(
                        (events.len(), &events[events.len() - 1].0[..]),
                        (6, "done"),
                        "client {client}"
                    );
                }
            }
        }
    });
    assert_eq!(server.metric("engine_images_total"), 8.0 + 64.0 * 5.0);
    assert_eq!(
        (server.metric("engine_queue_length"), server.metric("engine_requests_in_flight")),
        (0.0, 0.0)
    );
    assert_eq!(server.metric("engine_batch_size_sum"), 328.0);
    // Requests of several clients were computed together.
    assert!(server.metric("engine_batch_size_count") < 250.0, "{}", server.metric("engine_batch_size_count"));
    let text = server.get("/metrics").text();
    assert_says(&text, &["engine_http_requests_total{route=\"/api/generate\",status=\"200\"} 200"]);
}

#[test]
fn beyond_the_queue_clients_are_sent_away() {
    let server = Server::start(&["--queue", "2", "--batch", "1", "--threads", "1"]);
    let asked = json!({ "caption": CAPTION, "seeds": (0..16).collect::<Vec<u64>>() });
    let answers = at_once(40, |_| server.post("/api/generate", &asked));
    let mut counts = BTreeMap::new();
    for answer in &answers {
        *counts.entry(answer.status).or_insert(0) += 1;
        match answer.status {
            200 => assert_eq!(answer.json()["samples"].as_array().unwrap().len(), 16),
            _ => {
                assert_says(&answer.problem(429), &["waiting already", "--queue"]);
                let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
                assert!((1..=60).contains(&seconds));
            }
        }
    }
    assert!(counts[&200] >= 2 && counts[&429] > 0, "{counts:?}");
    assert_eq!(server.metric("engine_images_total"), 16.0 * f64::from(counts[&200]));
}

#[test]
fn a_client_that_leaves_costs_no_more_pictures() {
    let server = Server::start(&["--batch", "1"]);
    let asked = json!({ "caption": CAPTION, "seeds": (0..16).collect::<Vec<u64>>() }).to_string();
    let head = server.head("POST", "/api/stream", "Content-Type: application/json\r\n", asked.len());
    for _ in 0..8 {
        let mut stream = server.connect();
        stream.write_all(&[&head[..], asked.as_bytes()].concat()).unwrap();
        let mut first = [0; 200];
        stream.read_exact(&mut first).unwrap();
    }
    let until = Instant::now() + Duration::from_secs(30);
    while server.metric("engine_requests_in_flight") > 0.0 {
        assert!(Instant::now() < until, "work goes on for clients that are gone");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(server.metric("engine_images_total") < 8.0 * 16.0);
}

#[test]
fn the_token_is_asked_for_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let path = file.to_str().unwrap();
    std::fs::write(&file, "correct-horse-battery\n").unwrap();
    let server = Server::start(&["--token-file", path]);
    let get = |path: &str, token: &str| {
        let line = if token.is_empty() { String::new() } else { format!("Authorization: {token}\r\n") };
        server.raw(&server.head("GET", path, &line, 0))
    };
    for open in ["/", "/page.js", "/health", "/openapi.json"] {
        assert_eq!(get(open, "").status, 200, "{open}");
    }
    for private in ["/api/model", "/api/vocabulary", "/metrics"] {
        for wrong in [
            "",
            "Bearer",
            "Bearer wrong",
            "correct-horse-battery",
            "Bearer correct-horse-batter",
            "Basic correct-horse-battery",
        ] {
            let answer = get(private, wrong);
            answer.problem(401);
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
        assert_eq!(get(private, "Bearer correct-horse-battery").status, 200, "{private}");
        assert_eq!(get(&format!("{private}?token=correct-horse-battery"), "").status, 401);
    }
    server.post("/api/generate", &json!({ "caption": CAPTION })).problem(401);
    // A proxy has a name of its own.
    let proxied = "Authorization: Bearer correct-horse-battery\r\nOrigin: https://studio.example\r\n";
    server.raw(&server.head("GET", "/api/model", proxied, 0)).good();
    assert!(!server.said().contains("correct-horse"), "{}", server.said());

    let message = refused(&["serve", "--run", shared_run(), "--port", "0", "--host", "0.0.0.0"]);
    assert_says(&message, &["--token-file", "openssl rand"]);
    std::fs::write(&file, "short").unwrap();
    let message = refused(&["serve", "--run", shared_run(), "--port", "0", "--token-file", path]);
    assert_says(&message, &["16 characters"]);
}

#[test]
fn other_sites_cannot_ask() {
    let server = Server::start(&[]);
    let (port, body) = (server.address.port(), "{\"caption\": \"a bird\"}");
    let ask = |host: &str, origin: &str| {
        let head = format!(
            "POST /api/prompt HTTP/1.1\r\nHost: {host}\r\n{origin}Connection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        server.raw(format!("{head}{body}").as_bytes())
    };
    let own = format!("localhost:{port}");
    ask(&own, "").good();
    ask(&own, &format!("Origin: http://{own}\r\n")).good();
    ask(&own, "Origin: https://evil.example\r\n").problem(403);
    ask(&own, "Origin: null\r\n").problem(403);
    ask(&format!("evil.example:{port}"), "").problem(421);
    ask(&format!("127.0.0.1.evil.example:{port}"), "").problem(421);
}

#[test]
fn it_stops_when_all_are_answered() {
    let mut server = Server::start(&["--batch", "1", "--threads", "1"]);
    let asked = json!({ "caption": CAPTION, "seeds": (0..16).collect::<Vec<u64>>() });
    thread::scope(|scope| {
        let server = &server;
        let clients: Vec<_> = (0..24)
            .map(|i| {
                let (asked, path) = (&asked, if i % 2 == 0 { "/api/generate" } else { "/api/stream" });
                scope.spawn(move || server.post(path, asked))
            })
            .collect();
        while server.metric("engine_requests_in_flight") < 24.0 {
            thread::sleep(Duration::from_millis(5));
        }
        server.signal("TERM");
        let until = Instant::now() + Duration::from_secs(5);
        let late = loop {
            let answer = server.get("/health");
            if answer.status != 200 || Instant::now() > until {
                break answer;
            }
        };
        assert_says(&late.problem(503), &["stopping"]);
        assert!(late.header("retry-after").is_some());
        for (i, client) in clients.into_iter().enumerate() {
            let answer = client.join().unwrap();
            assert_eq!(answer.status, 200);
            match i % 2 {
                0 => assert_eq!(answer.json()["samples"].as_array().unwrap().len(), 16),
                _ => assert_eq!(answer.events().last().unwrap().0, "done"),
            }
        }
    });
    assert_eq!(server.child.wait().unwrap().code(), Some(0), "{}", server.said());
    assert_says(&server.said(), &["stopping after this request", "every request was answered"]);
}

#[test]
fn what_cannot_be_served_is_said_in_a_sentence() {
    let message = refused(&["serve", "--run", "no/such/run", "--port", "0"]);
    assert_says(&message, &["no/such/run", "no such folder", "train --dataset demo"]);
    let server = Server::start(&[]);
    let port = server.address.port().to_string();
    let message = refused(&["serve", "--run", shared_run(), "--port", &port]);
    assert_says(&message, &["in use", "take another with --port"]);
}

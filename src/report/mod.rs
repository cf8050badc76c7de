//! A run as one page of HTML that holds all it shows: it opens without a network, in light and dark, and prints.
//!
//! ```text
//! run folder ──► source ──► overview, metrics, curves, pictures, attention, settings, calls ──► page.css, page.js ──► page
//! ```
//!
//! What cannot be read is named on the page and does not keep the rest from it.

mod attention;
mod calls;
mod chart;
mod curve;
mod curves;
mod html;
mod image;
mod metrics;
mod overview;
mod pictures;
mod settings;
mod source;

pub use self::html::size;
use self::html::{Html, el, tag, void};
use self::source::Source;
use crate::error::Result;
use crate::run::RunFolder;

pub struct Report {
    pub html: String,
    /// What could not be read.
    pub problems: Vec<String>,
}

/// The page of a run; for `captions` of its sample captions pictures are generated that show the attention.
///
/// # Errors
/// `Data` where nothing is trained yet, and those of a configuration that cannot be read.
pub fn report(run: &RunFolder, captions: usize) -> Result<Report> {
    let source = Source::read(run)?;
    let evaluations = metrics::evaluations(&source);
    let sections = vec![
        metrics::html(&source, &evaluations),
        curves::html(&source),
        pictures::over_time(&source),
        attention::html(&source, captions),
        pictures::generated(&source),
        settings::data(&source),
        settings::configuration(&source),
        calls::html(&source),
    ];
    let headlines = metrics::headlines(&source, &evaluations);
    let top = overview::html(&source, headlines);
    let body = vec![top, tag("main", sections), overview::foot()];
    let html = page(&format!("{} · run report", source.name()), body);
    Ok(Report { html, problems: source.problems() })
}

fn page(title: &str, body: Vec<Html>) -> String {
    let head = vec![
        void("meta", &[("charset", "utf-8")]),
        void("meta", &[("name", "viewport"), ("content", "width=device-width, initial-scale=1")]),
        void("meta", &[("name", "color-scheme"), ("content", "light dark")]),
        tag("title", title),
        tag("style", Html::trusted(include_str!("page.css"))),
    ];
    // In XML too the script is no markup.
    let script = format!("//<![CDATA[\n{}//]]>", include_str!("page.js"));
    let body = [body, vec![tag("script", Html::trusted(script))]].concat();
    let html = el("html", &[("lang", "en")], vec![tag("head", head), tag("body", body)]);
    format!("<!DOCTYPE html>\n{}\n", html.into_string())
}

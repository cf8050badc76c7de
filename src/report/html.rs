//! HTML as values: texts are escaped and elements closed by construction, and the page is well-formed XML too.

use std::fmt::Write;

#[derive(Clone, Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Bytes of our own that stand as they are.
    pub fn trusted(text: impl Into<String>) -> Html {
        Html(text.into())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn into_string(self) -> String {
        self.0
    }
}

/// A text that shows as it is.
impl From<&str> for Html {
    fn from(text: &str) -> Html {
        Html(escape(text))
    }
}

impl From<String> for Html {
    fn from(text: String) -> Html {
        Html(escape(&text))
    }
}

impl From<Vec<Html>> for Html {
    fn from(parts: Vec<Html>) -> Html {
        parts.into_iter().collect()
    }
}

impl FromIterator<Html> for Html {
    fn from_iter<I: IntoIterator<Item = Html>>(parts: I) -> Html {
        Html(parts.into_iter().map(|part| part.0).collect())
    }
}

/// What a browser would take for markup becomes text; control characters, which no page may hold, become U+FFFD.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// An element with attributes.
pub(super) fn el(name: &str, attributes: &[(&str, &str)], inner: impl Into<Html>) -> Html {
    Html(format!("<{name}{}>{}</{name}>", list(attributes), inner.into().0))
}

/// An element that holds nothing.
pub(super) fn void(name: &str, attributes: &[(&str, &str)]) -> Html {
    Html(format!("<{name}{}/>", list(attributes)))
}

/// An element without attributes.
pub(super) fn tag(name: &str, inner: impl Into<Html>) -> Html {
    el(name, &[], inner)
}

fn list(attributes: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in attributes {
        write!(out, " {name}=\"{}\"", escape(value)).expect("a string takes what is written");
    }
    out
}

/// A section of the page with its heading.
pub(super) fn section(id: &str, title: &str, body: impl Into<Html>) -> Html {
    el("section", &[("id", id)], vec![tag("h2", title), body.into()])
}

/// A sentence that says what is not there, and why.
pub(super) fn absent(why: impl Into<Html>) -> Html {
    el("p", &[("class", "absent")], why)
}

pub(super) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<Html>>) -> Html {
    let heads = head.iter().map(|name| tag("th", *name)).collect::<Html>();
    let body = rows.into_iter().map(|row| row_of(&[], row)).collect::<Html>();
    with_head(heads, body)
}

pub(super) fn row_of(attributes: &[(&str, &str)], cells: Vec<Html>) -> Html {
    el("tr", attributes, cells.into_iter().map(|cell| tag("td", cell)).collect::<Html>())
}

/// A table that scrolls by itself where the page is narrow.
pub(super) fn with_head(heads: Html, body: Html) -> Html {
    let head = if heads.is_empty() { Html::default() } else { tag("thead", tag("tr", heads)) };
    el("div", &[("class", "scroll")], tag("table", vec![head, tag("tbody", body)]))
}

/// Names and what stands behind them.
pub(super) fn pairs(rows: impl IntoIterator<Item = (&'static str, Html)>) -> Html {
    let row = |(name, value): (&str, Html)| tag("tr", vec![tag("th", name), tag("td", value)]);
    let body = rows.into_iter().map(row).collect::<Html>();
    el("div", &[("class", "scroll")], el("table", &[("class", "pairs")], tag("tbody", body)))
}

pub(super) fn code(text: &str) -> Html {
    tag("code", text)
}

/// Bytes as people read them.
pub fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{:.0} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// Four digits of a number, as short as they are.
pub(super) fn number(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 {
        return "0".to_string();
    }
    if !(1e-4..1e7).contains(&magnitude) {
        return format!("{value:.2e}");
    }
    let decimals = (3.0 - magnitude.log10().floor()).clamp(0.0, 8.0) as usize;
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_texts_shows_as_text() {
        let html = el("p", &[("title", "\"><script>")], "<script>alert('1 & 2')</script>\0").into_string();
        assert_eq!(
            html,
            "<p title=\"&quot;&gt;&lt;script&gt;\">&lt;script&gt;alert(&#39;1 &amp; 2&#39;)&lt;/script&gt;\u{fffd}</p>"
        );
    }

    #[test]
    fn numbers_are_short() {
        let short = [0.0, 0.5, 1234.56, 0.000_2, 2e-7, 12_345_678.0, -3.251_59, 100.0].map(number);
        assert_eq!(short, ["0", "0.5", "1235", "0.0002", "2.00e-7", "1.23e7", "-3.252", "100"]);
        assert_eq!([size(12), size(2048), size(3 << 20)], ["12 bytes", "2 KiB", "3.0 MiB"]);
    }
}

//! What was meant by a misspelled word.

/// Up to three of `known` spelled like `word`, or with the same last part, the nearest first.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    const ALIKE: f64 = 0.75;
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_string();
    let score = |key: &str| {
        let whole = strsim::normalized_damerau_levenshtein(word, key);
        let parts = strsim::jaro_winkler(&last(word), &last(key));
        whole.max(parts * 0.95)
    };
    let mut scored: Vec<_> = known.map(|key| (score(key), key)).filter(|(s, _)| *s >= ALIKE).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(3).map(|(_, key)| key).collect()
}

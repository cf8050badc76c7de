//! Which trainings a sweep consists of.

use anyhow::bail;

/// Variants of a preset; each is a row of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// What the variants differ in, as the heads of the table's first columns.
    pub columns: Vec<String>,
    pub variants: Vec<Variant>,
    /// `key=value` of every variant.
    pub fixed: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Its name as that of a folder.
    pub folder: String,
    /// A text for each of the plan's columns.
    pub cells: Vec<String>,
    /// `key=value`, on top of those that are the same in every variant.
    pub settings: Vec<String>,
}

impl Plan {
    /// Every combination of the values of settings such as `loss.lambda_captioner=0,5,10`. With an analysis of the papers, a name
    /// and variants, these and settings of one value each.
    ///
    /// # Errors
    /// Where nothing is varied, or something twice.
    pub fn new(analysis: Option<(&str, Vec<Variant>)>, settings: &[String]) -> anyhow::Result<Plan> {
        let mut axes: Vec<(&str, Vec<String>)> = Vec::new();
        let mut fixed = Vec::new();
        for setting in settings {
            let Some((key, text)) = setting.split_once('=') else {
                bail!("'{setting}' is no setting: write key=value, or key=value,value,..");
            };
            let (key, values) = (key.trim(), values(text));
            if let [_] = values[..] {
                fixed.push(setting.clone());
                continue;
            }
            if axes.iter().any(|(other, _)| *other == key) {
                bail!("{key} is varied twice: put all its values behind one --set");
            }
            if let Some(twice) = values.iter().enumerate().find(|(i, value)| values[..*i].contains(value)) {
                bail!("{key}: {} is given twice", twice.1);
            }
            axes.push((key, values));
        }
        match (analysis, axes.is_empty()) {
            (Some((_, variants)), true) => Ok(Plan { columns: vec!["variant".to_string()], variants, fixed }),
            (Some((name, _)), false) => bail!("{name} has its own variants: give {} one value", axes[0].0),
            (None, true) => bail!(
                "nothing is varied: give a key several values, as in --set loss.lambda_captioner=0,5,10, or name an analysis \
                 (--list)"
            ),
            (None, false) => Ok(Plan { variants: combinations(&axes), columns: keys(&axes), fixed }),
        }
    }
}

fn keys(axes: &[(&str, Vec<String>)]) -> Vec<String> {
    axes.iter().map(|(key, _)| key.to_string()).collect()
}

/// Every combination; the last key changes fastest.
fn combinations(axes: &[(&str, Vec<String>)]) -> Vec<Variant> {
    let mut cells: Vec<Vec<String>> = vec![Vec::new()];
    for (_, values) in axes {
        let with = |cells: &Vec<String>| {
            let cells = cells.clone();
            values.iter().map(move |value| [cells.clone(), vec![value.clone()]].concat()).collect::<Vec<_>>()
        };
        cells = cells.iter().flat_map(with).collect();
    }
    let variant = |cells: Vec<String>| {
        let settings: Vec<String> =
            axes.iter().zip(&cells).map(|((key, _), value)| format!("{key}={value}")).collect();
        Variant { folder: folder(&settings.join(",")), cells, settings }
    };
    cells.into_iter().map(variant).collect()
}

/// A name that every file system takes.
pub fn folder(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-=,".contains(c) { c } else { '_' };
    name.chars().map(plain).collect()
}

/// What stands between commas, but for commas within brackets or quotes.
fn values(text: &str) -> Vec<String> {
    let (mut depth, mut quoted) = (0_u32, false);
    let mut values = vec![String::new()];
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            '[' if !quoted => depth += 1,
            ']' if !quoted => depth = depth.saturating_sub(1),
            ',' if !quoted && depth == 0 => {
                values.push(String::new());
                continue;
            }
            _ => {}
        }
        values.last_mut().expect("one at least").push(c);
    }
    values.iter().map(|value| value.trim().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(settings: &[&str]) -> anyhow::Result<Plan> {
        Plan::new(None, &settings.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn every_combination_is_a_variant() {
        let plan = plan(&["a.b=1,2", "c.d=x", "e.f=[1, 2],[3]"]).unwrap();
        assert_eq!(plan.columns, ["a.b", "e.f"]);
        assert_eq!(plan.fixed, ["c.d=x"]);
        let cells: Vec<String> = plan.variants.iter().map(|variant| variant.cells.join(" ")).collect();
        assert_eq!(cells, ["1 [1, 2]", "1 [3]", "2 [1, 2]", "2 [3]"]);
        assert_eq!(plan.variants[0].settings, ["a.b=1", "e.f=[1, 2]"]);
        assert_eq!(plan.variants[0].folder, "a.b=1,e.f=_1,_2_");
    }

    #[test]
    fn what_is_varied_wrongly_is_said() {
        let why = |settings: &[&str]| plan(settings).unwrap_err().to_string();
        assert!(why(&["a.b=1"]).contains("nothing is varied"));
        assert!(why(&["a.b=1,2", "a.b=3,4"]).contains("a.b is varied twice"));
        assert!(why(&["a.b=1,2,1"]).contains("1 is given twice"));
        assert!(why(&["a.b"]).contains("is no setting"));
    }
}

//! Section "Attention": pictures of the newest weights, and where each word looks when one points at it.

use image::{Rgba, RgbaImage};

use super::html::{Html, absent, el, section, tag, void};
use super::image::{layer, picture};
use super::pictures::captions;
use super::source::Source;
use crate::engine::Tensor;
use crate::error::Result;
use crate::infer::{Draw, Request, Sampler, Samples, Weights};
use crate::render::{Attention, Even, Scale, pictures};
use crate::run::{Phase, samples};

/// Generates for the first `count` captions of the sample grids.
pub(super) fn html(source: &Source, count: usize) -> Html {
    let trained = |phase: Phase| source.phases.iter().any(|of| of.phase == phase && of.state.is_some());
    let body = if count == 0 {
        absent("Left out, as was asked for.")
    } else if !(trained(Phase::Damsm) && trained(Phase::Gan)) {
        absent("There is no generator yet.")
    } else {
        match (
            captions(&samples::folder(source.root())),
            source.or_problem(Sampler::open(source.run, Weights::Newest)),
        ) {
            (_, None) => absent("The generator cannot be read."),
            (None, _) => absent("There is no samples/captions.txt with captions to draw."),
            (Some(captions), Some(sampler)) => {
                let shown =
                    source.or_problem(drawn(source, &sampler, &captions[..count.min(captions.len())]));
                shown.unwrap_or_else(|| absent("Nothing could be generated."))
            }
        }
    };
    section("attention", "Attention", body)
}

fn drawn(source: &Source, sampler: &Sampler, captions: &[String]) -> Result<Html> {
    let seed = source.config.run.seed;
    let mut figures = Vec::new();
    for (number, caption) in (1..).zip(captions) {
        let Ok(prompt) = sampler.prompt(caption) else {
            source.problem(format!("attention: no word of '{caption}' is known to this run"));
            continue;
        };
        let samples = sampler.sample(&[Request::words(prompt.ids, Draw { seed, number, truncation: None })]);
        let sample = samples.sample(0);
        sample.require_finite(&source.root().join(&sampler.checkpoint))?;
        figures.push(figure(&sample, caption, &prompt.words));
    }
    let explained = format!(
        "By the averaged weights of {}, seed {seed}. Point at a word, or go to it with the tab key: the more of a place's attention \
         it has beyond an even share, the stronger the color. One scale for all words of a picture; the largest share stands beside each word.",
        sampler.checkpoint
    );
    let cards = el("div", &[("class", "looks")], figures);
    Ok(vec![el("p", &[("class", "note")], explained), cards].into())
}

/// The largest image under the finest map of attention.
fn figure(sample: &Samples, caption: &str, words: &[String]) -> Html {
    let largest = pictures(sample.largest()).into_iter().next();
    let image = largest.map_or(Html::default(), |largest| {
        void("img", &[("src", &picture(&largest).address), ("alt", caption), ("class", "seen")])
    });
    let Some(map) = sample.generated.attention.last() else {
        let why = "One stage alone has no attention.";
        return tag("figure", vec![image, tag("figcaption", vec![tag("span", caption), tag("small", why)])]);
    };
    let heat = Heat::of(map);
    let word = |(i, word): (usize, &String)| {
        let share = tag("small", heat.scale.text_of(heat.map.largest_of(i)));
        let colors = void("img", &[("src", &layer(heat.colors(i)).address), ("alt", ""), ("class", "heat")]);
        el("span", &[("class", "word"), ("tabindex", "0")], vec![word.as_str().into(), share, colors])
    };
    let words = words.iter().enumerate().map(word).collect::<Html>();
    tag("figure", vec![image, el("figcaption", &[("class", "words")], words)])
}

/// A map [1,H,W,T]: nothing is drawn up to an even share of the words, the largest value is the strongest color.
struct Heat {
    map: Attention,
    scale: Scale,
}

impl Heat {
    fn of(map: &Tensor) -> Heat {
        let map = Attention::of(map, 0, map.shape().last_dim());
        Heat { scale: Scale::of(std::slice::from_ref(&map), Even::Words), map }
    }

    fn colors(&self, word: usize) -> RgbaImage {
        let pixel = |value: f32| {
            let at = self.scale.of_value(value);
            let color = colorous::INFERNO.eval_continuous(f64::from(0.35 + 0.6 * at));
            Rgba([color.r, color.g, color.b, (at.sqrt() * 225.0).round() as u8])
        };
        let [height, width] = self.map.size();
        let mut image = RgbaImage::new(width as u32, height as u32);
        image.pixels_mut().zip(self.map.of_word(word)).for_each(|(to, value)| *to = pixel(value));
        image
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_share_is_clear_and_the_largest_is_strong() {
        let heat = Heat::of(&Tensor::from_vec(vec![0.5, 0.5, 0.9, 0.1], [1, 1, 2, 2]));
        assert_eq!(heat.colors(0).pixels().map(|pixel| pixel.0[3]).collect::<Vec<_>>(), [0, 225]);
        assert_eq!(heat.colors(1).pixels().map(|pixel| pixel.0[3]).collect::<Vec<_>>(), [0, 0]);
        assert_eq!([heat.map.largest_of(0), heat.map.largest_of(1)], [0.9, 0.5]);
        let lone = Heat::of(&Tensor::from_vec(vec![1.0, 1.0], [1, 1, 2, 1]));
        assert_eq!(lone.colors(0).pixels().map(|pixel| pixel.0[3]).collect::<Vec<_>>(), [225, 225]);
    }
}

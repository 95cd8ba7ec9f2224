//! Owns: the tokens of one image, by its size and the model's rule.
//! Must not know: how a size is read from a file's header.
//! On failure: never fails; an image of unknown size is counted between the rule's least and most.
//!
//! Source: `OpenAI`, "Images and vision", section "Calculating costs". Images are scaled down to a bound, never up.

use super::count::Count;
use super::picture::{self, Pixels};
use crate::json::Json;

/// How a model counts images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageRule {
    /// Squares of 512 pixels after fitting into 2048 × 2048 and a shortest side of at most 768; `detail: low`
    /// costs the base alone. 85 and 170 for gpt-4o, 2,833 and 5,667 for gpt-4o-mini, 75 and 150 for o1.
    Tiles {
        /// For every image
        base_tokens: u64,
        /// For every tile
        tile_tokens: u64,
    },
    /// Squares of 32 pixels, scaled down to at most `cap` of them, times `multiplier_milli` / 1000: cap 1,536
    /// and 1,620 for gpt-4.1-mini, 2,460 for gpt-4.1-nano, 1,720 for o4-mini. Claude's rule, the area by 750 and at
    /// most 1,600 tokens, is cap 1,172 and 1,366.
    Patches {
        /// The most patches of an image
        cap: u64,
        /// Thousandths of a token per patch
        multiplier_milli: u64,
    },
    /// Every image the same.
    Flat {
        /// For every image
        tokens: u64,
    },
}

const FIT_PIXELS: f64 = 2048.0;
const SHORTEST_PIXELS: f64 = 768.0;
const TILE_PIXELS: f64 = 512.0;
const PATCH_PIXELS: f64 = 32.0;
/// 768 × 2048 after scaling: two by four tiles.
const MOST_TILES: u64 = 8;

/// gpt-4o's.
impl Default for ImageRule {
    fn default() -> Self {
        Self::Tiles { base_tokens: 85, tile_tokens: 170 }
    }
}

/// Tokens of the `image_url` of a content part: an object with `url` and `detail`, or the bare URL.
pub(super) fn count(rule: ImageRule, image: &Json<'_>) -> Count {
    let url = image.as_str().or_else(|| image.get("url")?.as_str());
    count_at(rule, url, image.get("detail").and_then(Json::as_str))
}

/// Tokens of the image at a URL; `None`: it is named in another way.
pub(super) fn count_at(rule: ImageRule, url: Option<&str>, detail: Option<&str>) -> Count {
    match rule {
        ImageRule::Tiles { base_tokens, .. } if detail == Some("low") => Count::exact(base_tokens),
        _ => count_pixels(rule, url.and_then(picture::pixels), detail),
    }
}

/// Tokens of the image in a base64 text.
pub(super) fn count_base64(rule: ImageRule, data: &str) -> Count {
    count_pixels(rule, picture::pixels_of_base64(data), None)
}

fn count_pixels(rule: ImageRule, pixels: Option<Pixels>, detail: Option<&str>) -> Count {
    match (rule, pixels) {
        (ImageRule::Flat { tokens }, _) => Count::exact(tokens),
        (_, Some(pixels)) => sized(rule, pixels, detail),
        (_, None) => unsized_image(rule),
    }
}

fn sized(rule: ImageRule, pixels: Pixels, detail: Option<&str>) -> Count {
    let tokens = tokens(rule, pixels);
    // Without `high` the server may choose the low detail, which costs less.
    match rule {
        ImageRule::Tiles { .. } if detail != Some("high") => Count::estimate(tokens, 0),
        _ => Count::exact(tokens),
    }
}

fn unsized_image(rule: ImageRule) -> Count {
    let least = tokens(rule, Pixels { width: 1, height: 1 });
    let most = match rule {
        ImageRule::Tiles { base_tokens, tile_tokens } => {
            base_tokens.saturating_add(tile_tokens.saturating_mul(MOST_TILES))
        }
        ImageRule::Patches { cap, multiplier_milli } => scaled(cap, multiplier_milli),
        ImageRule::Flat { tokens } => tokens,
    };
    Count::estimate(least, most.saturating_sub(least))
}

fn tokens(rule: ImageRule, pixels: Pixels) -> u64 {
    match rule {
        ImageRule::Tiles { base_tokens, tile_tokens } => {
            base_tokens.saturating_add(tile_tokens.saturating_mul(tiles(pixels)))
        }
        ImageRule::Patches { cap, multiplier_milli } => scaled(patches(pixels, cap), multiplier_milli),
        ImageRule::Flat { tokens } => tokens,
    }
}

fn scaled(patches: u64, multiplier_milli: u64) -> u64 {
    patches.saturating_mul(multiplier_milli).div_ceil(1000)
}

fn tiles(Pixels { width, height }: Pixels) -> u64 {
    let (width, height) = (f64::from(width), f64::from(height));
    let fit = (FIT_PIXELS / width.max(height)).min(1.0);
    let short = (SHORTEST_PIXELS / (width.min(height) * fit)).min(1.0);
    let along = |side: f64| squares(side * fit * short, TILE_PIXELS);
    (along(width) * along(height)).min(MOST_TILES)
}

fn patches(Pixels { width, height }: Pixels, cap: u64) -> u64 {
    let (width, height) = (f64::from(width), f64::from(height));
    let whole = squares(width, PATCH_PIXELS).saturating_mul(squares(height, PATCH_PIXELS));
    if whole <= cap {
        return whole;
    }
    // Shrink to the cap's area, then a little more, so that whole patches fit one side.
    let shrink = (cap as f64 * PATCH_PIXELS * PATCH_PIXELS / (width * height)).sqrt();
    let (across, down) = (width * shrink / PATCH_PIXELS, height * shrink / PATCH_PIXELS);
    let fit = (across.floor() / across).min(down.floor() / down);
    let along = |patches: f64| squares(patches * fit, 1.0);
    // An image so thin that no whole patch fits one side is squeezed to nothing; the cap is the bound.
    if fit > 0.0 { along(across).saturating_mul(along(down)).min(cap) } else { cap }
}

/// Squares that cover a side, at least one; a product that is whole but for rounding counts as whole.
fn squares(side: f64, square: f64) -> u64 {
    ((side / square - 1e-9).ceil() as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TILES: ImageRule = ImageRule::Tiles { base_tokens: 85, tile_tokens: 170 };

    fn pixels(width: u32, height: u32) -> Pixels {
        Pixels { width, height }
    }

    /// The first two are the examples of the published rule; the third is what gpt-4o bills for a small image.
    #[test]
    fn tiles_cover_the_image_after_scaling_down() {
        for (width, height, expected) in [
            (1024, 1024, 765),
            (2048, 4096, 1105),
            (128, 64, 255),
            (512, 512, 255),
            (513, 512, 425),
            (1, 1, 255),
            (100_000, 1, 85 + 4 * 170),
            (4096, 1537, 85 + 8 * 170),
            (u32::MAX, u32::MAX, 765),
        ] {
            assert_eq!(tokens(TILES, pixels(width, height)), expected, "{width} × {height}");
        }
    }

    /// The first two are the examples of the published rule.
    #[test]
    fn patches_cover_the_image_up_to_the_cap() {
        let rule = ImageRule::Patches { cap: 1536, multiplier_milli: 1000 };
        for (width, height, expected) in
            [(1024, 1024, 1024), (1800, 2400, 1452), (32, 32, 1), (33, 32, 2), (1, 1, 1), (u32::MAX, 1, 1536)]
        {
            assert_eq!(tokens(rule, pixels(width, height)), expected, "{width} × {height}");
        }
        let mini = ImageRule::Patches { cap: 1536, multiplier_milli: 1620 };
        assert_eq!(tokens(mini, pixels(128, 64)), 13);
    }

    proptest::proptest! {
        #[test]
        fn no_size_costs_more_than_the_rule_allows(width in 1_u32.., height in 1_u32.., cap in 1_u64..5000) {
            proptest::prop_assert!((255..=85 + 8 * 170).contains(&tokens(TILES, pixels(width, height))));
            let rule = ImageRule::Patches { cap, multiplier_milli: 1000 };
            proptest::prop_assert!((1..=cap).contains(&tokens(rule, pixels(width, height))));
        }
    }
}

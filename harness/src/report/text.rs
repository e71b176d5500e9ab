//! How text and numbers are written in reports: names from outside made harmless, numbers made readable.

use std::fmt::Write as _;

/// `text` as it can be shown anywhere: characters that a terminal would obey, or that hide or reorder other text, are
/// replaced by a visible sign. Control characters become their Unicode pictures (`␛`), the others their number
/// (`\u{202e}`).
#[must_use]
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            // The pictures stand in the order of the characters that they depict, from U+2400 on.
            '\0'..='\u{1f}' => out.extend(char::from_u32(0x2400 + u32::from(character))),
            '\u{7f}' => out.push('\u{2421}'),
            hidden if is_hidden(hidden) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(hidden));
            }
            other => out.push(other),
        }
    }
    out
}

/// Characters that show nothing themselves and change how the rest is shown (Unicode's C1 controls, format characters,
/// line separators, tags and variation selectors).
const fn is_hidden(character: char) -> bool {
    matches!(
        character,
        '\u{80}'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{fdd0}'..='\u{fdef}'
            | '\u{fffe}'..='\u{ffff}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// At most `most` characters of `text`, made [`visible`]; what is cut off is marked.
#[must_use]
pub fn clipped(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => visible(text),
        Some((end, _)) => visible(&text[..end]) + "…",
    }
}

/// `text` in lines of at most `width` characters, all but the first behind `indent` spaces. A word that is too long
/// for a line is cut.
#[must_use]
pub fn wrapped(text: &str, width: usize, indent: usize) -> String {
    let room = width.saturating_sub(indent).max(1);
    let (blank, words) = text.split_at(text.len() - text.trim_start_matches(' ').len());
    let blank = &blank[..blank.len().min(width.saturating_sub(1))];
    let mut lines = vec![blank.to_owned()];
    let (mut length, mut is_begun) = (blank.len(), false);
    for word in words.split(' ').flat_map(|word| pieces(word, room)) {
        let most = if lines.len() == 1 { width } else { room };
        let word_length = word.chars().count();
        if length + usize::from(is_begun) + word_length > most && length > 0 {
            lines.push(String::new());
            (length, is_begun) = (0, false);
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(if is_begun { " " } else { "" });
            line.push_str(word);
        }
        length += usize::from(is_begun) + word_length;
        is_begun |= !word.is_empty();
    }
    lines.join(&format!("\n{:indent$}", ""))
}

/// A word in pieces of at most `most` characters.
fn pieces(word: &str, most: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = word;
    while let Some((end, _)) = rest.char_indices().nth(most) {
        let (piece, after) = rest.split_at(end);
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces
}

/// A count with its thousands apart: `1,234,567`.
#[must_use]
pub fn count(number: u64) -> String {
    grouped(&number.to_string())
}

/// A number without its fraction, with its thousands apart.
#[must_use]
pub fn rounded(number: f64) -> String {
    grouped(&format!("{number:.0}"))
}

fn grouped(digits: &str) -> String {
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count with its noun: `1 request`, `2 requests`, `1 reply`, `2 replies`.
#[must_use]
pub fn counted(number: u64, noun: &str) -> String {
    match (number, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{} {stem}ies", count(number)),
        (_, None) => format!("{} {noun}s", count(number)),
    }
}

/// Milliseconds, short: `1.4 ms`, `250 ms`, `12.0 s`.
#[must_use]
pub fn short_ms(ms: f64) -> String {
    match ms {
        ms if ms < 9.95 => format!("{ms:.1} ms"),
        ms if ms < 9_999.5 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_instead() {
        assert_eq!(visible("\x1b[31mred\r\n\x07\x7f"), "␛[31mred␍␊␇␡");
        assert_eq!(visible("a\u{202e}b\u{9b}"), "a\\u{202e}b\\u{9b}");
        assert_eq!(visible("größer 漢字 …"), "größer 漢字 …");
    }

    #[test]
    fn clipping_counts_characters_and_says_that_it_cut() {
        assert_eq!(clipped("äöü", 3), "äöü");
        assert_eq!(clipped("äöüß", 3), "äöü…");
    }

    #[test]
    fn lines_keep_their_width() {
        assert_eq!(wrapped("one two three four", 9, 2), "one two\n  three\n  four");
        assert_eq!(wrapped("12345678901234", 6, 2), "1234\n  5678\n  9012\n  34");
        assert_eq!(wrapped("  short  word", 80, 4), "  short  word");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [counted(1, "reply"), counted(2, "reply"), counted(1_000, "reset")],
            ["1 reply", "2 replies", "1,000 resets"]
        );
        assert_eq!([0.04, 9.94, 250.4, 12_000.0].map(short_ms), ["0.0 ms", "9.9 ms", "250 ms", "12.0 s"]);
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_asked(text in "[a-z]?[a-z ]{0,200}", width in 1usize..40, indent in 0usize..10) {
            let shown = wrapped(&text, width, indent);
            prop_assert!(shown.lines().all(|line| line.chars().count() <= width.max(indent + 1)), "{shown}");
            let letters = |text: &str| text.chars().filter(|letter| !letter.is_whitespace()).collect::<String>();
            prop_assert_eq!(letters(&shown), letters(&text));
        }

        #[test]
        fn nothing_visible_is_a_control_character(text in any::<String>()) {
            prop_assert!(!visible(&text).chars().any(|shown| shown.is_control() || is_hidden(shown)));
        }
    }
}

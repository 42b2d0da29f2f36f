//! Rust sources read as text, without a parser: blanked literals, items cut out, paths spelled out.

/// The text with comments and the insides of strings and characters turned into spaces; lines stay where they are.
pub fn blanked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = opaque(rest, out.chars().last());
        let (piece, after) = rest.split_at(length.max(first.len_utf8()));
        if length == 0 {
            out.push(first);
        } else {
            out.extend(piece.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        rest = after;
    }
    out
}

/// How many bytes of a comment, string or character literal the text begins with; 0 when it begins with code.
fn opaque(text: &str, before: Option<char>) -> usize {
    let until = |end: &str, from: usize| text[from..].find(end).map_or(text.len(), |at| from + at + end.len());
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let hashes = text.strip_prefix('r').map_or(0, |rest| rest.bytes().take_while(|byte| *byte == b'#').count());
    if text.starts_with("//") {
        text.find('\n').unwrap_or(text.len())
    } else if text.starts_with("/*") {
        until("*/", 2)
    } else if !in_word && text.starts_with('r') && text[1 + hashes..].starts_with('"') {
        until(&format!("\"{}", "#".repeat(hashes)), 2 + hashes)
    } else if text.starts_with('"') {
        quoted(text, '"')
    } else if text.starts_with("'\\") || text.starts_with('\'') && text.chars().nth(2) == Some('\'') {
        quoted(text, '\'')
    } else {
        0
    }
}

/// The length of a literal with escapes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// The code with every item under `#[cfg(test)]` blanked, and the names of such modules that stand in other files.
pub fn without_tests(code: &str) -> (String, Vec<String>) {
    const MARKS: [&str; 2] = ["#[cfg(test)]", "#[cfg(all(test"];
    let (mut code, mut names) = (code.to_owned(), Vec::new());
    while let Some(start) = MARKS.iter().filter_map(|mark| code.find(mark)).min() {
        let end = start + item_length(&code[start..]);
        if let Some((_, name)) = code[start..end].trim_end_matches(';').rsplit_once("mod ") {
            names.push(name.trim().to_owned());
        }
        let blank: String = code[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        code.replace_range(start..end, &blank);
    }
    (code, names)
}

/// How far an item reaches: to its `;`, or to the brace that closes its first one.
fn item_length(item: &str) -> usize {
    let mut depth = 0;
    for (at, c) in item.char_indices() {
        match c {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    item.len()
}

/// Every path in the code with its line, groups spelled out.
pub fn paths(code: &str) -> Vec<(usize, Vec<String>)> {
    let tokens = tokens(code);
    let (mut found, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        at = path(&tokens, at, &[], &mut found);
    }
    found
}

/// Words, `::`, and single other characters, each with its line.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = match rest.find(|c| !is_word(c)) {
                _ if rest.starts_with("::") => 2,
                Some(0) => first.len_utf8(),
                Some(end) => end,
                None => rest.len(),
            };
            tokens.push((number + 1, &rest[..length]));
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

/// Reads a path, or passes over one other token, from `at` behind a prefix; returns where it ended.
fn path(tokens: &[(usize, &str)], at: usize, prefix: &[String], found: &mut Vec<(usize, Vec<String>)>) -> usize {
    let (start, mut at, mut own) = (at, at, prefix.to_vec());
    let token = |at: usize| tokens.get(at).map_or("", |(_, token)| *token);
    while token(at).starts_with(|c: char| c.is_alphabetic() || c == '_') {
        own.push(token(at).to_owned());
        at += 1;
        if token(at) != "::" {
            break;
        }
        at += 1;
        if token(at) == "{" {
            return group(tokens, at + 1, &own, found);
        }
    }
    if at == start {
        return at + 1;
    }
    found.push((tokens[start].0, own));
    at
}

/// Reads the members of `{…}` behind a prefix; returns where it ended.
fn group(tokens: &[(usize, &str)], mut at: usize, prefix: &[String], found: &mut Vec<(usize, Vec<String>)>) -> usize {
    while at < tokens.len() && tokens[at].1 != "}" {
        at = path(tokens, at, prefix, found);
    }
    at + 1
}

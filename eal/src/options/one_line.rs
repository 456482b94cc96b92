//! A wrong command line told in one line.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Tells what clap found wrong in one line, with what was probably meant, and without the leading `error:`.
///
/// `unexpected argument '--no-hug'; did you mean '--no-huge'?`
#[must_use]
pub fn one_line(error: &clap::Error) -> String {
    let found = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        Some(ContextValue::Strings(texts)) => texts.first().map(String::as_str),
        _ => None,
    };
    let mut line = match (error.kind(), found(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(argument)) => format!("unexpected argument '{argument}'"),
        _ => first_paragraph(&error.to_string()),
    };
    let meant = [ContextKind::SuggestedArg, ContextKind::SuggestedValue, ContextKind::SuggestedSubcommand];
    if let Some(meant) = meant.into_iter().find_map(found) {
        line.push_str(&format!("; did you mean '{meant}'?"));
    }
    line
}

/// The lines before the first empty one, joined: clap's usage and tips come after it.
fn first_paragraph(text: &str) -> String {
    let lines = text.trim_start_matches("error: ").lines().take_while(|line| !line.trim().is_empty());
    lines.map(str::trim).collect::<Vec<_>>().join(" ")
}

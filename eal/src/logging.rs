//! The log of a program: what tracing reports goes to standard error, one line an event.

use std::io::{self, IsTerminal};
use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, fmt};

use crate::options::{EalOptions, LogDirective};

/// The environment variable that overrides `--log-level`; several directives are divided by commas.
pub const VARIABLE: &str = "WIRERATE_LOG";

/// The log cannot be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoggingError {
    /// The environment variable is none.
    #[error("the environment variable {VARIABLE} is wrong: {0}")]
    Variable(String),
}

/// Logs warnings and errors to standard error, or what the options and [`VARIABLE`] ask for. Does nothing when
/// the program already has a subscriber.
///
/// # Errors
/// [`LoggingError`] when the environment variable cannot be read.
pub fn init(options: &EalOptions) -> Result<(), LoggingError> {
    let filter = match std::env::var(VARIABLE) {
        Ok(text) => from_variable(&text)?,
        Err(_) => asked_for(options),
    };
    // Times would be the journal's business; the level and the module are what a reader looks for.
    let lines = fmt::layer().compact().without_time().with_ansi(false).with_writer(io::stderr).with_target(
        !io::stderr().is_terminal() || filter.would_enable("wirerate_eal", &tracing::Level::DEBUG),
    );
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter));
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        tracing::debug!("the program has a log of its own");
    }
    Ok(())
}

/// What the options say; the version that `-v` asks for is told as an information.
fn asked_for(options: &EalOptions) -> Targets {
    let version = LogDirective { target: Some("wirerate_eal::eal".into()), level: LevelFilter::INFO };
    let mut directives: Vec<LogDirective> = options.show_version.then_some(version).into_iter().collect();
    directives.extend_from_slice(&options.log_level);
    filter(&directives)
}

fn from_variable(text: &str) -> Result<Targets, LoggingError> {
    let directives: Result<Vec<LogDirective>, String> =
        text.split(',').filter(|part| !part.trim().is_empty()).map(FromStr::from_str).collect();
    Ok(filter(&directives.map_err(LoggingError::Variable)?))
}

fn filter(directives: &[LogDirective]) -> Targets {
    let mut targets = Targets::new().with_default(LevelFilter::WARN);
    for LogDirective { target, level } in directives {
        targets = match target {
            Some(target) => targets.with_target(target.clone(), *level),
            None => targets.with_default(*level),
        };
    }
    targets
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use tracing::Level;

    use super::*;

    #[test]
    fn the_more_specific_directive_counts() {
        let targets = filter(&["error".parse().unwrap(), "lib.eal:debug".parse().unwrap()]);
        assert!(targets.would_enable("wirerate_eal::memory", &Level::DEBUG));
        assert!(!targets.would_enable("wirerate_pmd", &Level::WARN));
        assert!(filter(&[]).would_enable("wirerate_pmd", &Level::WARN));
        assert!(!filter(&[]).would_enable("wirerate_pmd", &Level::INFO));
    }

    #[test]
    fn the_version_is_told_when_asked_for() {
        let mut options = EalOptions { show_version: true, ..EalOptions::default() };
        assert!(asked_for(&options).would_enable("wirerate_eal::eal", &Level::INFO));
        options.show_version = false;
        assert!(!asked_for(&options).would_enable("wirerate_eal::eal", &Level::INFO));
    }

    #[test]
    fn the_variable_is_read_or_refused() {
        let targets = from_variable("warn, wirerate_pmd=trace").unwrap();
        assert!(targets.would_enable("wirerate_pmd::port", &Level::TRACE));
        assert!(!targets.would_enable("wirerate_eal", &Level::INFO));
        assert!(from_variable("lib.eal:loud").unwrap_err().to_string().contains("WIRERATE_LOG"));
    }

    #[test]
    fn a_second_log_is_no_error() {
        assert_eq!(init(&EalOptions::default()), Ok(()));
        assert_eq!(init(&EalOptions::default()), Ok(()));
    }
}

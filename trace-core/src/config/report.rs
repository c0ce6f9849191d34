//! What is wrong with a configuration, told so that it can be put right, and nothing secret in it.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::{self, Write};

/// The most characters of a bad value that a report repeats.
const VALUE_CHARS_MAX: usize = 80;

/// One thing that is wrong with the configuration, and what is done about it.
///
/// [`Display`](fmt::Display) gives one line. The values of headers, passwords and query strings are never in
/// it.
///
/// ```
/// use trace_core::config::Config;
///
/// let (_, reports) = Config::from_lookup(
///     |name| (name == "OTEL_BSP_MAX_QUEUE_SIZE").then(|| "0".into()),
///     ["OTEL_BSP_MAX_QUEUE_SIZE".into()],
/// );
/// assert_eq!(reports[0].source(), "OTEL_BSP_MAX_QUEUE_SIZE");
/// assert_eq!(reports[0].value(), Some("0"));
/// assert_eq!(reports[0].problem(), "expected a whole number from 1 to 2147483647");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    source: String,
    value: Option<String>,
    problem: Cow<'static, str>,
    remedy: String,
}

impl Report {
    pub(crate) fn new(
        source: impl Into<String>,
        problem: impl Into<Cow<'static, str>>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { source: source.into(), value: None, problem: problem.into(), remedy: remedy.into() }
    }

    /// Adds the bad value, shortened to what fits a line.
    pub(crate) fn with_value(mut self, value: &str) -> Self {
        let mut kept: String = value.chars().take(VALUE_CHARS_MAX).collect();
        if kept.len() < value.len() {
            kept.push('…');
        }
        self.value = Some(kept);
        self
    }

    /// The variable that holds the bad value.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The bad value, or its start; `None` when it may be a secret or does not matter.
    pub fn value(&self) -> Option<&str> {
        self.value.as_deref()
    }

    /// What is wrong: mostly `expected` and what was expected.
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// What is done about it: mostly `using` and what is used instead.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name or a value with a line break in it must not forge a second line.
        let one_line = |f: &mut fmt::Formatter<'_>, text: &str| {
            text.chars().try_for_each(|c| {
                if c.is_control() { write!(f, "{}", c.escape_default()) } else { f.write_char(c) }
            })
        };
        one_line(f, &self.source)?;
        if let Some(value) = &self.value {
            f.write_str("=\"")?;
            one_line(f, value)?;
            f.write_char('"')?;
        }
        f.write_str(": ")?;
        one_line(f, &self.problem)?;
        f.write_str("; ")?;
        one_line(f, &self.remedy)
    }
}

/// The configuration has something wrong with it, and its user wanted to know.
///
/// Made only where a user asks for it: the family itself goes on with defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    reports: Vec<Report>,
}

impl ConfigError {
    /// The error for these reports; `None` when there are none.
    pub fn from_reports(reports: Vec<Report>) -> Option<Self> {
        (!reports.is_empty()).then_some(Self { reports })
    }

    /// What is wrong, each thing once.
    pub fn reports(&self) -> &[Report] {
        &self.reports
    }
}

impl From<Report> for ConfigError {
    fn from(report: Report) -> Self {
        Self { reports: vec![report] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, report) in self.reports.iter().enumerate() {
            write!(f, "{}{report}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl Error for ConfigError {}

/// An address without user name, password, query and fragment, each of which may hold a secret.
pub(super) fn redact_address(address: &str) -> String {
    let (scheme, rest) = match address.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), address),
    };
    // The last `@` before the first `?` would be the exact end of a password; a password that was not encoded
    // may hold a `?` too, and is hidden as well.
    let (user, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => ("REDACTED@", rest),
        None => ("", rest),
    };
    match rest.find(['?', '#']) {
        Some(start) => format!("{scheme}{user}{}?REDACTED", &rest[..start]),
        None => format!("{scheme}{user}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_line_whatever_is_in_it() {
        let report = Report::new("OTEL_\nX", "expected\r\na", "using b").with_value("x\u{1b}[31m\ny");
        let line = report.to_string();
        assert_eq!(line, "OTEL_\\nX=\"x\\u{1b}[31m\\ny\": expected\\r\\na; using b");
    }

    #[test]
    fn a_long_value_is_cut() {
        let report = Report::new("A", "expected b", "using c").with_value(&"ä".repeat(1000));
        assert_eq!(report.value().unwrap().chars().count(), VALUE_CHARS_MAX + 1);
        assert!(report.value().unwrap().ends_with('…'));
    }

    #[test]
    fn an_address_shows_no_password_and_no_query() {
        for (address, shown) in [
            ("http://collector:4318/v1/traces", "http://collector:4318/v1/traces"),
            ("http://user:secret@collector", "http://REDACTED@collector"),
            ("http://user:se@cret@collector/x", "http://REDACTED@collector/x"),
            ("user:secret@collector:4317", "REDACTED@collector:4317"),
            ("http://collector/?key=secret#secret", "http://collector/?REDACTED"),
            ("http://u:se#cr?et@collector", "http://REDACTED@collector"),
            ("http://collector/?a=b@c", "http://REDACTED@c"),
            ("", ""),
        ] {
            assert_eq!(redact_address(address), shown);
        }
    }
}

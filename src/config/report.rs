//! What is wrong with a configuration: every mistake with its place, the line itself and a way out.
//!
//! `Findings` collects while files are read and checked; `Report` is the finished list that leaves this folder. A
//! report is either printed (`render`, with the offending line under a caret) or serialised for `--json`. What is
//! allowed but can hardly be meant is a warning: it refuses nothing.

use super::place::{Place, Position, Sources};
use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use std::fmt;
use std::path::{Path, PathBuf};

/// Every mistake found in the files of one load, in the order of the files and lines; as an error never empty. Or its
/// warnings.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Report {
    diagnostics: Vec<Diagnostic>,
    #[serde(skip)]
    severity: Severity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Severity {
    Error,
    Warning,
}

/// One mistake. Lines and columns count from 1 (columns in characters); both are absent when the whole file is
/// meant (missing, unreadable, a directory).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Diagnostic {
    pub file: PathBuf,
    pub line: Option<usize>,
    pub column: Option<usize>,
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
    /// The other place of a contradiction.
    pub related: Option<Related>,
    #[serde(skip)]
    excerpt: Option<Excerpt>,
}

/// The other place of a contradiction: the first definition of something defined twice.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Related {
    pub file: PathBuf,
    pub line: usize,
    pub column: usize,
    pub message: String,
    #[serde(skip)]
    excerpt: Option<Excerpt>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Excerpt {
    text: String,
    span: std::ops::Range<usize>,
}

impl Report {
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// One line each, for a log: "net.toml:12: what is wrong; what to write instead".
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.diagnostics.iter().map(|diagnostic| {
            let line = diagnostic.line.map(|line| format!(":{line}")).unwrap_or_default();
            let hint = diagnostic.hint.as_ref().map(|hint| format!("; {hint}"));
            let (file, message) = (diagnostic.file.display(), &diagnostic.message);
            format!("{file}{line}: {message}{}", hint.unwrap_or_default())
        })
    }

    /// For people. `colour` is the caller's decision (a terminal, `NO_COLOR`); plain otherwise.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let mut out = String::new();
        for diagnostic in &self.diagnostics {
            if !out.is_empty() {
                out.push('\n');
            }
            out.push_str(&diagnostic.render(self.severity, &renderer));
            out.push('\n');
        }
        out
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Report {}

impl Diagnostic {
    fn render(&self, severity: Severity, renderer: &Renderer) -> String {
        let level = match severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let path = self.file.to_string_lossy();
        let mut group = level
            .clone()
            .primary_title(self.message.as_str())
            .element(Origin::path(path.clone()));
        if let (Some(line), Some(column)) = (self.line, self.column) {
            group = located(
                level.primary_title(self.message.as_str()),
                &path,
                (line, column),
                self.excerpt.as_ref(),
                AnnotationKind::Primary,
            );
        }
        // Only what goes through `message`/`secondary_title` is not cleaned of control characters by the renderer.
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.message(annotate_snippets::normalize_untrusted_str(hint)));
        }
        let mut groups = vec![group];
        let related_path = self.related.as_ref().map(|r| r.file.to_string_lossy());
        if let (Some(related), Some(path)) = (&self.related, &related_path) {
            groups.push(located(
                Level::NOTE.secondary_title(annotate_snippets::normalize_untrusted_str(&related.message)),
                path,
                (related.line, related.column),
                related.excerpt.as_ref(),
                AnnotationKind::Context,
            ));
        }
        renderer.render(&groups)
    }
}

fn located<'a>(
    title: annotate_snippets::Title<'a>,
    path: &'a str,
    (line, column): (usize, usize),
    excerpt: Option<&'a Excerpt>,
    kind: AnnotationKind,
) -> Group<'a> {
    match excerpt {
        Some(excerpt) => title.element(
            Snippet::source(excerpt.text.as_str())
                .path(path)
                .line_start(line)
                .annotation(kind.span(excerpt.span.clone())),
        ),
        None => title.element(Origin::path(path).line(line).char_column(column)),
    }
}

/// One mistake while it is being described.
#[derive(Debug)]
pub(super) struct Finding {
    at: Where,
    message: String,
    hint: Option<String>,
    related: Option<(Place, String)>,
}

#[derive(Debug)]
enum Where {
    File(PathBuf),
    Place(Place),
}

impl Finding {
    pub fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(hint.into());
        self
    }
    pub fn related(&mut self, place: Place, message: impl Into<String>) -> &mut Self {
        self.related = Some((place, message.into()));
        self
    }
}

/// Collects mistakes during one load.
#[derive(Debug)]
pub(super) struct Findings {
    list: Vec<Finding>,
    warnings: Vec<Finding>,
    /// Comparisons that "did you mean" may still make. A file with thousands of misspelt references to thousands of
    /// networks must not take minutes to be refused.
    pub(super) comparisons_left: usize,
}

impl Default for Findings {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            warnings: Vec::new(),
            comparisons_left: 200_000,
        }
    }
}

impl Findings {
    pub fn error(&mut self, place: Place, message: impl Into<String>) -> &mut Finding {
        add(&mut self.list, Where::Place(place), message.into())
    }

    /// Allowed, but hardly meant.
    pub fn warning(&mut self, place: Place, message: impl Into<String>) -> &mut Finding {
        add(&mut self.warnings, Where::Place(place), message.into())
    }

    /// A file as a whole.
    pub fn file_error(&mut self, path: &Path, message: impl Into<String>) -> &mut Finding {
        add(&mut self.list, Where::File(path.to_owned()), message.into())
    }

    /// No mistakes; there may be warnings.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Files as a whole come first, then places in the order of the files and lines.
    pub fn into_report(self, sources: &Sources) -> Report {
        report(self.list, Severity::Error, sources)
    }

    pub fn into_warnings(self, sources: &Sources) -> Report {
        report(self.warnings, Severity::Warning, sources)
    }
}

fn add(list: &mut Vec<Finding>, at: Where, message: String) -> &mut Finding {
    let index = list.len();
    list.push(Finding {
        at,
        message,
        hint: None,
        related: None,
    });
    // Just pushed.
    &mut list[index]
}

fn report(mut findings: Vec<Finding>, severity: Severity, sources: &Sources) -> Report {
    findings.sort_by_key(|finding| match finding.at {
        Where::File(_) => None,
        Where::Place(place) => Some(place),
    });
    let diagnostics = findings.into_iter().map(|f| diagnostic(f, sources)).collect();
    Report {
        diagnostics,
        severity,
    }
}

fn diagnostic(finding: Finding, sources: &Sources) -> Diagnostic {
    let position = match &finding.at {
        Where::File(_) => None,
        Where::Place(place) => sources.position(*place),
    };
    let file = match (&finding.at, &position) {
        (_, Some(p)) => p.path.to_owned(),
        (Where::File(path), None) => path.clone(),
        (Where::Place(place), None) => sources.path(place.file).to_owned(),
    };
    let related = finding.related.and_then(|(place, message)| {
        let p = sources.position(place)?;
        Some(Related {
            file: p.path.to_owned(),
            line: p.line,
            column: p.column,
            message,
            excerpt: excerpt(&p),
        })
    });
    Diagnostic {
        file,
        line: position.as_ref().map(|p| p.line),
        column: position.as_ref().map(|p| p.column),
        message: finding.message,
        hint: finding.hint,
        related,
        excerpt: position.as_ref().and_then(excerpt),
    }
}

/// The line, unless it is so long that it would bury the message.
fn excerpt(position: &Position<'_>) -> Option<Excerpt> {
    (position.text.len() <= 2_000).then(|| Excerpt {
        text: position.text.to_owned(),
        span: position.span.clone(),
    })
}

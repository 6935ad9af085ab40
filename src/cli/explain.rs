//! `tapwire explain`.

use super::context::Context;
use super::failure::Failure;
use super::output::{Output, Style, micros, plain};
use super::port::style;
use crate::control::api::{StepKind, Story};
use crate::control::client::escape;
use std::io;

/// Tell the story of one tap: why it is, or is not, attached
///
/// Events, the mapping decision, plugins' verdicts, operations and the kernel's answers, with times.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tap name or port id
    tap: String,
}

pub fn run(context: &mut Context, args: Args) -> Result<(), Failure> {
    let client = context.client()?;
    let path = format!("/v1/explain/{}", escape(&args.tap));
    let story: Story = context.block_on(async { Ok(client.get(&path).await?) })?;
    context.print(&story, text)
}

fn text(out: &mut Output, story: &Story) -> io::Result<()> {
    let tap = out.paint(Style::Bold, &story.tap);
    let state = out.paint(style(story.state), story.state.as_str());
    let index = story
        .ifindex
        .map_or_else(String::new, |i| format!("  ifindex {i}"));
    let network = story
        .network
        .as_ref()
        .map_or_else(String::new, |n| format!("  network {}", plain(n)));
    let reason = story
        .reason
        .as_ref()
        .map_or_else(String::new, |r| format!(": {}", plain(r)));
    out.line(&format!("{tap}{index}{network}  {state}{reason}"))?;
    let mut cause = None;
    for step in &story.steps {
        // A new cause starts a new paragraph.
        if step.cause != cause {
            out.line("")?;
            cause = step.cause;
        }
        let stamp = out.paint(
            Style::Dim,
            &format!("{:>10}.{:06}", step.at_us / 1_000_000, step.at_us % 1_000_000),
        );
        let kind_style = match (step.kind, step.ok) {
            (_, Some(false)) => Style::Bad,
            (StepKind::State, _) => Style::Bold,
            (StepKind::Event, _) => Style::Accent,
            (StepKind::Answer, Some(true)) => Style::Good,
            _ => Style::Plain,
        };
        let kind = out.paint(kind_style, &format!("{:<7}", step.kind.as_str()));
        let elapsed = step
            .elapsed_us
            .map(|us| out.paint(Style::Dim, &format!("  (+{})", micros(us))))
            .unwrap_or_default();
        out.line(&format!("{stamp}  {kind}  {}{elapsed}", plain(&step.text)))?;
    }
    Ok(())
}

//! From the crate's format to the one that every Prometheus reads.

/// OpenMetrics -> text format 0.0.4: `_total` in a counter's HELP and TYPE, no UNIT, no EOF.
pub fn to_prometheus_text(page: &str) -> String {
    let mut out = String::with_capacity(page.len());
    let mut help: Option<&str> = None;
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let suffix = if rest.ends_with(" counter") { "_total" } else { "" };
            for (word, rest) in [("HELP", help.take()), ("TYPE", Some(rest))] {
                if let Some((name, text)) = rest.and_then(|rest| rest.split_once(' ')) {
                    out.extend(["# ", word, " ", name, suffix, " ", text, "\n"]);
                }
            }
        } else if !line.starts_with('#') {
            out.extend([line, "\n"]);
        }
    }
    out
}

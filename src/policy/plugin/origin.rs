//! Where in a plugin's source a field was decided.
//!
//! Lua does not say which line built a table entry. The only assignment of that field inside the hook is taken; when
//! there are several (or none), the line where the hook starts. So a line is never wrong, only coarse.

use crate::policy::api::Hook;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Entries of the memory of lines.
const MAX_FOUND: usize = 256;

#[derive(Debug)]
pub struct Origins {
    plugin: String,
    shown: Arc<str>,
    text: Arc<str>,
    /// Line where each hook starts, ascending.
    hooks: Vec<(Hook, usize)>,
    /// Lines found before, by hook and field: the same few are asked for with every answer.
    found: Mutex<HashMap<(Hook, String), usize>>,
}

impl Origins {
    pub fn new(plugin: &str, shown: Arc<str>, text: Arc<str>, mut hooks: Vec<(Hook, usize)>) -> Self {
        hooks.sort_by_key(|(_, line)| *line);
        Self {
            plugin: plugin.to_owned(),
            shown,
            text,
            hooks,
            found: Mutex::default(),
        }
    }

    /// "mtu plugins/mtu.lua:14" for a field path such as "port.learning" or `fdb[fa:16:3e:00:00:05]`.
    pub fn of(&self, hook: Hook, path: &str) -> String {
        format!("{} {}:{}", self.plugin, self.shown, self.line(hook, path))
    }

    /// "plugins/mtu.lua:14" for a field path, without the plugin.
    pub fn place(&self, hook: Hook, path: &str) -> String {
        format!("{}:{}", self.shown, self.line(hook, path))
    }

    /// "plugins/mtu.lua:14", the hook itself.
    pub fn hook(&self, hook: Hook) -> String {
        format!("{}:{}", self.shown, self.start(hook))
    }

    /// Is there a `return` between the hook's start and the next hook, or the end of the file?
    pub fn returns(&self, hook: Hook) -> bool {
        let start = self.start(hook);
        let end = self
            .hooks
            .iter()
            .map(|(_, line)| *line)
            .find(|line| *line > start);
        let lines = self.text.lines().skip(start.saturating_sub(1));
        lines
            .take(end.map_or(usize::MAX, |end| end - start + 1))
            .any(|line| line.split("--").next().unwrap_or(line).contains("return"))
    }

    fn start(&self, hook: Hook) -> usize {
        self.hooks
            .iter()
            .find(|(h, _)| *h == hook)
            .map_or(1, |(_, line)| *line)
    }

    fn line(&self, hook: Hook, path: &str) -> usize {
        let whole = path.split('[').next().unwrap_or(path);
        let word = whole.rsplit('.').next().unwrap_or(whole);
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        // A tag's name is the script's to choose: the memory of lines is bounded.
        if found.len() > MAX_FOUND {
            found.clear();
        }
        *found
            .entry((hook, word.to_owned()))
            .or_insert_with(|| self.search(hook, word))
    }

    fn search(&self, hook: Hook, word: &str) -> usize {
        let start = self.start(hook);
        let end = self
            .hooks
            .iter()
            .map(|(_, line)| *line)
            .find(|line| *line > start)
            .unwrap_or(usize::MAX);
        let mut inside = Vec::new();
        let mut anywhere = Vec::new();
        for (number, line) in (1..).zip(self.text.lines()) {
            if assigns(line, word) {
                anywhere.push(number);
                if (start..end).contains(&number) {
                    inside.push(number);
                }
            }
        }
        match (inside.as_slice(), anywhere.as_slice()) {
            ([line], _) | ([], [line]) => *line,
            _ => start,
        }
    }
}

/// Does `line` contain `word =` (and not `word ==`), `word` standing alone, outside a comment?
fn assigns(line: &str, word: &str) -> bool {
    let code = line.split("--").next().unwrap_or(line);
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code.get(..at).and_then(|s| s.chars().next_back());
        let after = code
            .get(at + word.len()..)
            .unwrap_or("")
            .trim_start_matches(['"', ']', ' ']);
        !before.is_some_and(is_name) && after.starts_with('=') && !after.starts_with("==")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_assignment_inside_the_hook_is_the_place() {
        let text = "local mtu = 1\nreturn {\n  port = function(ctx)\n    if ctx.mtu == 3 then return end\n    return {\n      mtu = 9000, -- flood = x\n      port = { learning = false } }\n  end,\n}";
        let origins = Origins::new("a", "a.lua".into(), text.into(), vec![(Hook::Port, 3)]);
        assert_eq!(origins.of(Hook::Port, "mtu"), "a a.lua:6");
        assert_eq!(origins.of(Hook::Port, "port.learning"), "a a.lua:7");
        assert_eq!(origins.of(Hook::Port, "port.flood"), "a a.lua:3");
    }
}

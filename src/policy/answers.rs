//! Last good answers over a restart: what stands in for a plugin that fails right after it.
//!
//! One file, `answers.jsonl` in the daemon's state directory, replaced whole: a head with the format's version, then one
//! answer a line. A tap is known again by its index and its name together, since the kernel gives an index anew, and only
//! while the machine runs: after a boot both may be those of somebody else's tap. A file that cannot be read or written
//! costs this and nothing else.

use super::api::decision::{
    AdmitVerdict, NetworkVerdict, ObserveVerdict, PortVerdict, ResolveVerdict, Verdict,
};
use super::api::{Hook, Subject};
use super::shape::{Setting, UnsetWord};
use super::without_nulls;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

const FILE: &str = "answers.jsonl";
const VERSION: u32 = 1;

/// What one plugin said last about a tap or network without failing.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub plugin: String,
    pub hook: Hook,
    pub subject: Subject,
    /// Of the tap; empty for a network.
    pub name: Box<str>,
    /// The network that it was about.
    pub network: Box<str>,
    /// `None`: it had no opinion, which is an answer too.
    pub verdict: Option<Arc<Verdict>>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    answers: u32,
    /// The kernel's word for this boot; empty where it has none.
    boot: String,
}

#[derive(Serialize, Deserialize)]
struct Line {
    plugin: String,
    hook: Hook,
    subject: Subject,
    name: Box<str>,
    network: Box<str>,
    verdict: Json,
}

/// What is kept in `directory`; none if there is nothing, or nothing that can be used.
pub fn read(directory: &Path) -> Vec<Answer> {
    let path = directory.join(FILE);
    let lost = |error: &dyn std::fmt::Display| {
        tracing::warn!(path = %path.display(), %error, "the plugins' last answers are not known");
        Vec::new()
    };
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => return lost(&error),
    };
    let mut lines = BufReader::new(file).lines();
    let head = lines.next().and_then(Result::ok).unwrap_or_default();
    let same_boot = match serde_json::from_str::<Head>(&head) {
        Ok(head) if head.answers == VERSION => head.boot == boot(),
        Ok(head) => return lost(&format!("format {} is not known", head.answers)),
        Err(error) => return lost(&error),
    };
    let mut answers = Vec::new();
    for line in lines {
        let answer = line
            .map_err(|e| e.to_string())
            .and_then(|line| serde_json::from_str::<Line>(&line).map_err(|e| e.to_string()))
            .and_then(|line| answer(line).map_err(|e| e.to_string()));
        match answer {
            Ok(answer) if same_boot || !matches!(answer.subject, Subject::Tap(_)) => answers.push(answer),
            Ok(_) => {}
            Err(error) => return lost(&error),
        }
    }
    answers
}

/// Writes them. Blocks.
pub fn write(directory: &Path, answers: &[Answer]) {
    let path = directory.join(FILE);
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(directory)?;
        let fresh = path.with_extension("jsonl.new");
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        let mut out = BufWriter::new(file);
        let mut line = |value: Json| writeln!(out, "{value}");
        line(serde_json::to_value(Head {
            answers: VERSION,
            boot: boot(),
        })?)?;
        for answer in answers {
            line(serde_json::to_value(as_line(answer)?)?)?;
        }
        out.into_inner().map_err(|e| e.into_error())?;
        std::fs::rename(&fresh, &path)
    };
    if let Err(error) = write() {
        tracing::warn!(path = %path.display(), %error, "the plugins' last answers are not kept for the next start");
    }
}

fn boot() -> String {
    // Without it there is no telling boots apart.
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

fn as_line(answer: &Answer) -> serde_json::Result<Line> {
    let verdict = match answer.verdict.as_deref() {
        None => Json::Null,
        Some(verdict) => {
            let mut json = without_nulls(match verdict {
                Verdict::Resolve(v) => serde_json::to_value(v)?,
                Verdict::Network(v) => serde_json::to_value(v)?,
                Verdict::Port(v) => serde_json::to_value(v)?,
                Verdict::Admit(v) => serde_json::to_value(v)?,
                Verdict::Observe(v) => serde_json::to_value(v)?,
            });
            // Its text could be the word for "unset" itself.
            if has_unset_alias(verdict)
                && let Some(map) = json.as_object_mut()
            {
                map.insert("alias".to_owned(), Json::Null);
            }
            json
        }
    };
    Ok(Line {
        plugin: answer.plugin.clone(),
        hook: answer.hook,
        subject: answer.subject.clone(),
        name: answer.name.clone(),
        network: answer.network.clone(),
        verdict,
    })
}

fn has_unset_alias(verdict: &Verdict) -> bool {
    matches!(
        verdict,
        Verdict::Port(PortVerdict {
            alias: Some(Setting::Unset(_)),
            ..
        })
    )
}

fn answer(line: Line) -> serde_json::Result<Answer> {
    let unset_alias = line.verdict.get("alias").is_some_and(Json::is_null);
    let verdict = match line.verdict {
        Json::Null => None,
        json => Some(match line.hook {
            Hook::Resolve => Verdict::Resolve(serde_json::from_value::<ResolveVerdict>(json)?),
            Hook::Network => Verdict::Network(serde_json::from_value::<NetworkVerdict>(json)?),
            Hook::Admit => Verdict::Admit(serde_json::from_value::<AdmitVerdict>(json)?),
            Hook::Port => {
                let mut verdict = serde_json::from_value::<PortVerdict>(json)?;
                if unset_alias {
                    verdict.alias = Some(Setting::Unset(UnsetWord::Unset));
                }
                Verdict::Port(verdict)
            }
            _ => Verdict::Observe(serde_json::from_value::<ObserveVerdict>(json)?),
        }),
    };
    Ok(Answer {
        plugin: line.plugin,
        hook: line.hook,
        subject: line.subject,
        name: line.name,
        network: line.network,
        verdict: verdict.map(Arc::new),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(hook: Hook, verdict: Option<Json>) -> Answer {
        Answer {
            plugin: "a".into(),
            hook,
            subject: Subject::Tap(7),
            name: "tap7".into(),
            network: "blue".into(),
            verdict: verdict.map(|json| Arc::new(Verdict::decode(hook, json).unwrap())),
        }
    }

    #[test]
    fn every_answer_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let answers = [
            said(Hook::Port, None),
            said(Hook::Port, Some(json!({}))),
            said(
                Hook::Port,
                Some(json!({
                    "mtu": null, "alias": null, "tx_queue_len": 5, "port": {"learning": false, "guard": null},
                    "fdb": [{"mac": "fa:16:3e:00:00:05", "dst": "192.0.2.1", "vlan": 5}],
                    "neigh": [{"ip": "10.0.0.1", "mac": "fa:16:3e:00:00:05"}],
                    "vlans": [5], "tags": {"rack": "r1"}, "deny": "no", "defer": 5,
                })),
            ),
            said(Hook::Port, Some(json!({"alias": "unset"}))),
            said(Hook::Resolve, Some(json!({"network": "blue"}))),
            said(
                Hook::Network,
                Some(
                    json!({"bridge": {"mtu": 1400, "stp": null}, "vxlan": {"ttl": 3}, "tags": {"zone": "z"}}),
                ),
            ),
        ];
        write(dir.path(), &answers);
        assert_eq!(read(dir.path()), answers);
    }

    #[test]
    fn taps_of_another_boot_are_not_known_again() {
        let dir = tempfile::tempdir().unwrap();
        let network = Answer {
            subject: Subject::Network("blue".into()),
            name: Box::default(),
            ..said(Hook::Network, Some(json!({"tags": {"zone": "z"}})))
        };
        write(dir.path(), &[said(Hook::Port, None), network.clone()]);
        let file = dir.path().join(FILE);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace(&boot(), "another")).unwrap();
        assert_eq!(read(dir.path()), [network]);
    }

    #[test]
    fn a_damaged_or_newer_file_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).is_empty());
        for text in [
            "",
            "{",
            "{\"answers\": 9, \"boot\": \"\"}\n",
            "{\"answers\": 1, \"boot\": \"\"}\n{\"plugin\": 5}\n",
        ] {
            std::fs::write(dir.path().join(FILE), text).unwrap();
            assert!(read(dir.path()).is_empty(), "{text}");
        }
    }
}

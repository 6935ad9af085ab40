//! The documents say what is so: commands, configuration, plugin, links and paths in them are tried here.

// Clippy's own exemption knows only functions marked #[test], not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use tapwire::config;
use tapwire::policy::api::context::{Link, Network, Port};
use tapwire::policy::api::{Context, Hook};
use tapwire::policy::tools;

const DOCUMENTS: [&str; 5] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "plugins/README.md",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The fenced blocks of a document as (language, text).
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => open = Some((language.to_owned(), String::new())),
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some((_, body)), None) => {
                body.push_str(line);
                body.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    found
}

fn of_language<'a>(blocks: &'a [(String, String)], language: &str) -> Vec<&'a str> {
    let found = blocks.iter().filter(|(l, _)| l == language);
    found.map(|(_, body)| body.as_str()).collect()
}

/// The text outside of fenced blocks.
fn prose(text: &str) -> String {
    let mut inside = false;
    let outside = text.lines().filter(|line| {
        let fence = line.starts_with("```");
        inside ^= fence;
        !inside && !fence
    });
    outside.collect::<Vec<_>>().join("\n")
}

/// What stands between back quotes in prose.
fn quoted(text: &str) -> Vec<String> {
    prose(text)
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|code| code.replace('\n', " "))
        .collect()
}

/// The example plugin of a document.
fn example(path: &str) -> String {
    let text = read(path);
    let (_, rest) = text
        .split_once("<!-- example: storage -->\n```lua\n")
        .unwrap_or_else(|| panic!("{path} has no example"));
    rest.split_once("```").unwrap().0.to_owned()
}

/// A configuration directory in which the example plugin stands where the examples say.
fn site() -> tempfile::TempDir {
    let site = tempfile::tempdir().unwrap();
    std::fs::create_dir(site.path().join("plugins")).unwrap();
    std::fs::write(site.path().join("plugins/storage.lua"), example("README.md")).unwrap();
    site
}

#[test]
fn every_configuration_example_loads() {
    let site = site();
    let mut tried = 0;
    for document in ["README.md", "plugins/README.md"] {
        for text in of_language(&blocks(&read(document)), "toml") {
            if let Err(report) = config::load_str(text, &site.path().join("tapwire.toml")) {
                panic!("{document}:\n{text}\n{report}");
            }
            tried += 1;
        }
    }
    assert!(tried >= 10, "{tried}");
}

#[test]
fn the_plugin_example_is_the_same_everywhere_and_decides_what_is_said_of_it() {
    let text = example("README.md");
    assert_eq!(text, example("plugins/README.md"));
    assert!(text.lines().count() <= 15, "{text}");

    let site = site();
    let toml = blocks(&read("README.md"))
        .into_iter()
        .find(|(language, body)| language == "toml" && body.starts_with("[policy]"))
        .unwrap()
        .1;
    let config = config::load_str(&toml, &site.path().join("tapwire.toml")).unwrap();
    let report = tools::check(&[], &config.policy, &[]);
    assert_eq!(report.code, 0, "{report}");

    let context = |network: &str| Context {
        link: Some(Link {
            ifindex: 7,
            name: "vnet0".into(),
            mac: Some("fe:16:3e:00:00:05".into()),
            mtu: 1500,
            ..Link::default()
        }),
        port: Some(Port {
            mac: Some("fa:16:3e:00:00:05".into()),
            ..Port::default()
        }),
        network: Some(
            Network {
                id: network.into(),
                ..Network::default()
            }
            .into(),
        ),
        ..Context::default()
    };
    let decision = |hook, context| {
        let mut decision = tools::eval(&config.policy, hook, context).json["decision"].clone();
        decision.as_object_mut().unwrap().remove("by");
        decision
    };
    assert_eq!(
        decision(Hook::Port, context("storage")),
        json!({"mtu": 9000, "port": {"learning": false}, "fdb": [{"mac": "fa:16:3e:00:00:05"}]})
    );
    let unknown = Context {
        port: None,
        ..context("storage")
    };
    assert_eq!(
        decision(Hook::Port, unknown),
        json!({"mtu": 9000, "port": {"learning": false}})
    );
    assert_eq!(
        decision(Hook::Network, context("storage")),
        json!({"bridge": {"mtu": 9000}})
    );
}

/// Help texts by subcommand path, each asked for once.
#[derive(Default)]
struct Helps(BTreeMap<Vec<String>, String>);

impl Helps {
    fn of(&mut self, path: &[String]) -> &str {
        self.0.entry(path.to_vec()).or_insert_with(|| {
            let output = Command::new(env!("CARGO_BIN_EXE_tapwire"))
                .args(path)
                .arg("--help")
                .output()
                .unwrap();
            assert!(output.status.success(), "tapwire {path:?} --help");
            String::from_utf8(output.stdout).unwrap()
        })
    }

    /// The words below "Commands:".
    fn commands(&mut self, path: &[String]) -> Vec<String> {
        self.of(path)
            .lines()
            .skip_while(|line| *line != "Commands:")
            .skip(1)
            .take_while(|line| !line.is_empty())
            .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
            .filter_map(|line| line.split_whitespace().next())
            .map(str::to_owned)
            .collect()
    }

    /// Is `line`, without the word tapwire at its start, something the program takes?
    fn check(&mut self, line: &str) -> Result<(), String> {
        let mut path = Vec::new();
        let mut words = line.split_whitespace().peekable();
        while let Some(word) = words.peek() {
            let commands = self.commands(&path);
            if commands.is_empty() || word.starts_with('-') {
                break;
            }
            if !commands.iter().any(|command| command == word) {
                return Err(format!("no command {word} among {commands:?}"));
            }
            path.push((*word).to_owned());
            words.next();
        }
        let help = self.of(&path).to_owned();
        for option in words.take_while(|word| !matches!(*word, "|" | ";" | "#" | "&" | ">")) {
            let name = option.split('=').next().unwrap_or(option);
            if name.starts_with("--") && !help.split([' ', '\n', ',']).any(|known| known == name) {
                return Err(format!("no option {name} in tapwire {}", path.join(" ")));
            }
        }
        Ok(())
    }
}

/// What follows the word tapwire where a document shows a command.
fn invocations(text: &str) -> Vec<String> {
    let found = blocks(text);
    let shell = ["sh", "console"].map(|language| of_language(&found, language));
    let lines = shell.into_iter().flatten().flat_map(str::lines);
    let typed = lines.filter_map(|line| {
        let line = line.trim_start_matches("# ").trim_start_matches("sudo ");
        let start = line.find("tapwire ")?;
        // Another word before it: only where that word runs the rest.
        (start == 0 || line.starts_with("timeout ")).then(|| line[start + "tapwire ".len()..].to_owned())
    });
    let named = quoted(text)
        .into_iter()
        .filter_map(|code| code.strip_prefix("tapwire ").map(str::to_owned));
    // Console output begins with the version: "tapwire 0.1.0  in sync ...".
    let is_command = |line: &String| !line.starts_with(|c: char| c.is_ascii_digit());
    typed.chain(named).filter(is_command).collect()
}

#[test]
fn every_command_that_is_shown_exists_with_its_options() {
    let mut helps = Helps::default();
    let mut tried = 0;
    for document in DOCUMENTS {
        for line in invocations(&read(document)) {
            if let Err(problem) = helps.check(&line) {
                panic!("{document}: tapwire {line}: {problem}");
            }
            tried += 1;
        }
    }
    assert!(tried >= 40, "{tried}");
    assert!(helps.check("port bnid tap0 blue").is_err());
    assert!(helps.check("status --colour").is_err());
}

#[test]
fn the_readme_names_every_command() {
    let readme = read("README.md");
    for command in Helps::default().commands(&[]) {
        assert!(
            readme.contains(&format!("tapwire {command}")) || command == "run" || command == "help",
            "{command}"
        );
    }
}

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    for document in DOCUMENTS {
        let text = prose(&read(document));
        let anchors: Vec<String> = text
            .lines()
            .filter(|line| line.starts_with('#'))
            .map(anchor)
            .collect();
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().unwrap_or_default();
            if target.starts_with("https://") {
                continue;
            }
            let leads = match target.strip_prefix('#') {
                Some(wanted) => anchors.iter().any(|anchor| anchor == wanted),
                None => root().join(document).parent().unwrap().join(target).exists(),
            };
            assert!(leads, "{document}: {target}");
        }
    }
}

/// Paths below `src/` or the root that ARCHITECTURE names.
#[test]
fn every_path_in_the_code_map_exists_and_every_folder_is_in_it() {
    let text = read("ARCHITECTURE.md");
    let is_path = |word: &str| {
        (word.ends_with(".rs") || word.ends_with('/') || word.ends_with(".lua"))
            && word.contains('/')
            && word
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
    };
    let mut tried = 0;
    for word in quoted(&text).iter().filter(|word| is_path(word)) {
        let places: [PathBuf; 2] = [root().join("src").join(word), root().join(word)];
        // Inside the code map a folder of a folder is named alone: `api/` in the row of `policy/`.
        let inner = || {
            let mut folders = std::fs::read_dir(root().join("src")).unwrap();
            folders.any(|folder| folder.unwrap().path().join(word).exists())
        };
        assert!(places.iter().any(|place| place.exists()) || inner(), "{word}");
        tried += 1;
    }
    assert!(tried >= 30, "{tried}");
    for entry in std::fs::read_dir(root().join("src")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            let row = format!("| `{}/` |", entry.file_name().to_string_lossy());
            assert!(text.contains(&row), "{row}");
        }
    }
}

#[test]
fn the_test_binaries_named_exist() {
    for document in DOCUMENTS {
        for code in quoted(&read(document)) {
            if let Some((_, name)) = code.split_once("cargo test --test ") {
                let name = name.split(' ').next().unwrap();
                let places = [format!("tests/{name}.rs"), format!("tests/{name}/main.rs")];
                assert!(
                    places.iter().any(|place| root().join(place).exists()),
                    "{document}: {code}"
                );
            }
        }
    }
}

/// A newcomer's two commands: one line each, installing what they need, and the same thing as `.ci/run` runs.
#[test]
fn the_two_commands_are_those_of_ci() {
    let readme = blocks(&read("README.md"));
    let ci = read(".ci/run");
    for (command, packages) in [
        ("cargo run --release -- demo", vec!["g++"]),
        ("cargo test --no-fail-fast", vec!["g++", "iproute2"]),
    ] {
        let shown: Vec<&str> = of_language(&readme, "sh")
            .into_iter()
            .filter(|block| block.contains(command))
            .collect();
        let [line] = shown[..] else {
            panic!("{command}: {shown:?}")
        };
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(line.trim_end().ends_with(&format!("; {command}")), "{line}");
        let installed = line
            .split("install -y ")
            .nth(1)
            .unwrap()
            .split(';')
            .next()
            .unwrap();
        assert_eq!(
            installed.split_whitespace().collect::<Vec<_>>(),
            packages,
            "{line}"
        );
        assert!(
            ci.lines()
                .any(|step| step.starts_with("step ") && step.ends_with(command)),
            "{command} is not in .ci/run"
        );
        for package in packages {
            assert!(ci.contains(&format!("]={package} ")), "{package}");
        }
        // The shell takes it.
        let parsed = Command::new("sh").args(["-n", "-c", line]).status().unwrap();
        assert!(parsed.success(), "{line}");
    }
}

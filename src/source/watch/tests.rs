//! Every way in which editors and deployments change a file.

use super::*;
use std::fs;

/// Far more than any change takes; only a bug waits so long.
const PATIENCE: Duration = Duration::from_secs(10);

struct Files {
    root: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("networks.d")).unwrap();
        fs::write(root.path().join("tapwire.toml"), "x").unwrap();
        Self { root }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }
    fn watch(&self, files: &[&str], directories: &[&str]) -> Watch {
        let paths = |names: &[&str]| names.iter().map(|name| self.path(name)).collect();
        let mut watch = Watch::new().unwrap();
        // The files were made just now: what counts as a change is what comes after.
        let since = SystemTime::now() + Duration::from_secs(3600);
        watch.set(paths(files), paths(directories), since).unwrap();
        watch
    }
}

async fn changes(watch: &mut Watch) {
    tokio::time::timeout(PATIENCE, watch.changed())
        .await
        .expect("no change seen")
        .unwrap();
}

#[tokio::test]
async fn a_file_renamed_over_another_is_a_change_again_and_again() {
    let files = Files::new();
    let mut watch = files.watch(&["tapwire.toml"], &[]);
    for _ in 0..3 {
        fs::write(files.path("new"), "y").unwrap();
        fs::rename(files.path("new"), files.path("tapwire.toml")).unwrap();
        changes(&mut watch).await;
    }
}

#[tokio::test]
async fn writing_in_place_removing_and_making_anew_are_changes() {
    let files = Files::new();
    let mut watch = files.watch(&["tapwire.toml"], &[]);
    fs::write(files.path("tapwire.toml"), "y").unwrap();
    changes(&mut watch).await;
    fs::remove_file(files.path("tapwire.toml")).unwrap();
    changes(&mut watch).await;
    fs::write(files.path("tapwire.toml"), "z").unwrap();
    changes(&mut watch).await;
}

#[tokio::test]
async fn a_new_file_in_a_directory_is_a_change_also_if_the_directory_is_made_later() {
    let files = Files::new();
    let mut watch = files.watch(&["tapwire.toml"], &["networks.d", "later/parts"]);
    fs::write(files.path("networks.d/a.toml"), "").unwrap();
    changes(&mut watch).await;
    fs::create_dir(files.path("later")).unwrap();
    changes(&mut watch).await;
    fs::create_dir(files.path("later/parts")).unwrap();
    changes(&mut watch).await;
    fs::write(files.path("later/parts/a.toml"), "").unwrap();
    changes(&mut watch).await;
    fs::remove_dir_all(files.path("later")).unwrap();
    changes(&mut watch).await;
}

#[tokio::test]
async fn a_link_swapped_anywhere_on_the_way_is_a_change() {
    let files = Files::new();
    // As Kubernetes mounts a ConfigMap.
    for (directory, text) in [("v1", "a"), ("v2", "b")] {
        fs::create_dir(files.path(directory)).unwrap();
        fs::write(files.path(directory).join("linked.toml"), text).unwrap();
    }
    std::os::unix::fs::symlink("v1", files.path("..data")).unwrap();
    std::os::unix::fs::symlink("..data/linked.toml", files.path("linked.toml")).unwrap();
    let mut watch = files.watch(&["linked.toml"], &[]);
    std::os::unix::fs::symlink("v2", files.path("..data_tmp")).unwrap();
    fs::rename(files.path("..data_tmp"), files.path("..data")).unwrap();
    changes(&mut watch).await;
    fs::write(files.path("v2/linked.toml"), "c").unwrap();
    changes(&mut watch).await;
}

#[tokio::test]
async fn links_in_a_circle_end() {
    let files = Files::new();
    std::os::unix::fs::symlink("b", files.path("a")).unwrap();
    std::os::unix::fs::symlink("a", files.path("b")).unwrap();
    std::os::unix::fs::symlink("c/c", files.path("c")).unwrap();
    let mut watch = files.watch(&["a", "c", "c/d"], &[]);
    fs::remove_file(files.path("b")).unwrap();
    changes(&mut watch).await;
}

#[tokio::test]
async fn many_files_at_once_are_one_change() {
    let files = Files::new();
    let mut watch = files.watch(&["tapwire.toml"], &["networks.d"]);
    for n in 0..500 {
        fs::write(files.path(&format!("networks.d/{n}.toml")), "").unwrap();
    }
    changes(&mut watch).await;
    let again = tokio::time::timeout(SETTLE * 3, watch.changed()).await;
    assert!(again.is_err(), "a second change for the same files");
}

#[tokio::test]
async fn other_files_swap_files_and_unfinished_files_are_no_change() {
    let files = Files::new();
    let mut watch = files.watch(&["tapwire.toml"], &["networks.d"]);
    fs::write(files.path("other.toml"), "").unwrap();
    fs::write(files.path("networks.d/.a.toml.swp"), "").unwrap();
    fs::write(files.path("networks.d/a.toml~"), "").unwrap();
    let unfinished = fs::File::create(files.path("networks.d/a.toml")).unwrap();
    fs::read(files.path("tapwire.toml")).unwrap();
    let seen = tokio::time::timeout(SETTLE * 3, watch.changed()).await;
    assert!(seen.is_err());
    drop(unfinished);
    changes(&mut watch).await;
}

#[tokio::test]
async fn what_changed_while_it_was_read_is_reported_at_once() {
    let files = Files::new();
    let mut watch = Watch::new().unwrap();
    let before = SystemTime::now();
    fs::write(files.path("tapwire.toml"), "y").unwrap();
    watch
        .set(vec![files.path("tapwire.toml")], vec![], before)
        .unwrap();
    changes(&mut watch).await;
    watch
        .set(
            vec![files.path("tapwire.toml")],
            vec![],
            before + Duration::from_secs(3600),
        )
        .unwrap();
    let again = tokio::time::timeout(SETTLE * 3, watch.changed()).await;
    assert!(again.is_err());
}

#[tokio::test]
async fn a_loop_that_always_has_something_else_to_do_hears_of_a_change() {
    let files = Files::new();
    let mut watch = files.watch(&["tapwire.toml"], &[]);
    fs::write(files.path("tapwire.toml"), "y").unwrap();
    let end = Instant::now() + PATIENCE;
    // Cancelled and begun anew far more often than a change takes to settle.
    while tokio::time::timeout(SETTLE / 4, watch.changed()).await.is_err() {
        assert!(Instant::now() < end, "no change seen");
    }
}

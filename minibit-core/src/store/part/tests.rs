//! A download on disk: what is here after each kind of end, whose files it leaves alone, and what each fault of the disk leads to.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, FileTypeExt, symlink};

use tempfile::TempDir;

use super::super::testing::Share;
use super::*;

fn listing(dir: &TempDir) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn force() -> PartOptions {
    PartOptions { force: true, ..PartOptions::default() }
}

fn numbers(set: &PieceSet) -> Vec<u32> {
    set.iter().collect()
}

#[test]
fn a_download_leaves_its_files_under_their_names_and_nothing_else() {
    for share in [Share::film(), Share::folder()] {
        let dir = TempDir::new().unwrap();
        let (store, resumed) = share.open(&dir).unwrap();
        assert!(resumed.have.is_empty() && resumed.doubtful.is_empty());
        share.fetch(&store, share.all());
        let path = store.finish().unwrap();
        assert_eq!(path, dir.path().join(share.manifest.name()));
        share.assert_in_place(&dir);
        assert_eq!(listing(&dir), [share.manifest.name()]);
        assert_eq!(store.finish().unwrap(), path, "finishing again does nothing");
    }
}

#[test]
fn what_was_completed_is_known_after_the_process_died_and_only_that() {
    for share in [Share::film(), Share::folder()] {
        let dir = TempDir::new().unwrap();
        let (store, _) = share.open(&dir).unwrap();
        share.fetch(&store, [0, 2, 3]);
        let half = share.geometry().block(1, 0, 9_000).unwrap();
        store.write(half, share.bytes(half)).unwrap();
        drop(store);
        let (store, resumed) = share.open(&dir).unwrap();
        assert_eq!(numbers(&resumed.have), [0, 2, 3]);
        assert!(resumed.doubtful.is_empty() && resumed.warnings.is_empty());
        assert!(matches!(store.finish(), Err(StoreError::Incomplete { .. })));
        share.fetch(&store, share.all());
        store.finish().unwrap();
        share.assert_in_place(&dir);
    }
}

#[test]
fn a_second_download_to_the_same_place_is_refused_until_the_first_is_gone() {
    let (share, dir) = (Share::film(), TempDir::new().unwrap());
    let (first, _) = share.open(&dir).unwrap();
    assert!(matches!(share.open(&dir), Err(StoreError::InUse { .. })));
    assert!(matches!(share.open_with(&dir, force()), Err(StoreError::InUse { .. })));
    drop(first);
    share.open(&dir).unwrap();
}

#[test]
fn whatever_has_the_final_name_is_refused_and_left_alone() {
    for share in [Share::film(), Share::folder()] {
        for kind in ["file", "directory", "link", "dangling link", "fifo"] {
            let dir = TempDir::new().unwrap();
            let path = dir.path().join(share.manifest.name());
            plant(&path, kind);
            let outcome = share.open(&dir);
            assert!(matches!(outcome, Err(StoreError::TargetExists { .. })), "{outcome:?}");
            assert_eq!(listing(&dir), [share.manifest.name()], "{kind}");
        }
    }
}

/// Puts something that is not ours in the way.
fn plant(path: &Path, kind: &str) {
    match kind {
        "file" => fs::write(path, "mine").unwrap(),
        "directory" => {
            fs::create_dir(path).unwrap();
            fs::write(path.join("mine"), "mine").unwrap();
        }
        "link" => symlink("/etc/passwd", path).unwrap(),
        "dangling link" => symlink("/nowhere/at/all", path).unwrap(),
        "fifo" => {
            let (mode, kind) = (rustix::fs::Mode::RUSR, rustix::fs::FileType::Fifo);
            rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_file_in_the_place_of_the_target_directory_is_called_one() {
    let (share, dir) = (Share::film(), TempDir::new().unwrap());
    let path = dir.path().join("plain");
    fs::write(&path, "mine").unwrap();
    let outcome = PartStore::open(&path, &share.manifest, &[true], force()).map(drop);
    assert!(matches!(outcome, Err(StoreError::NotADirectory { .. })), "{outcome:?}");
}

#[test]
fn with_force_a_file_is_replaced_only_at_the_end() {
    for share in [Share::film(), Share::folder()] {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join(share.manifest.name());
        plant(&path, "file");
        let (store, _) = share.open_with(&dir, force()).unwrap();
        share.fetch(&store, share.all());
        assert_eq!(fs::read(path).unwrap(), b"mine");
        store.finish().unwrap();
        share.assert_in_place(&dir);
        assert_eq!(listing(&dir), [share.manifest.name()]);
    }
}

#[test]
fn with_force_an_earlier_copy_of_a_folder_and_an_empty_directory_are_replaced() {
    for (share, old) in [(Share::film(), None), (Share::folder(), Some("a/b/deep"))] {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join(share.manifest.name());
        fs::create_dir(&path).unwrap();
        if let Some(old) = old {
            fs::create_dir_all(path.join("a/b")).unwrap();
            fs::write(path.join(old), "an older edition").unwrap();
        }
        let (store, _) = share.open_with(&dir, force()).unwrap();
        share.fetch(&store, share.all());
        store.finish().unwrap();
        share.assert_in_place(&dir);
        assert_eq!(listing(&dir), [share.manifest.name()]);
    }
}

#[test]
fn with_force_a_directory_with_something_else_in_it_is_refused_and_left_alone() {
    for share in [Share::film(), Share::folder()] {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join(share.manifest.name());
        plant(&path, "directory");
        let outcome = share.open_with(&dir, force()).map(drop);
        let Err(StoreError::WouldLose { entry }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(entry, path.join("mine"));
        assert_eq!(fs::read(entry).unwrap(), b"mine");
        assert_eq!(listing(&dir), [share.manifest.name()]);
    }
}

#[test]
fn with_force_what_comes_into_the_directory_during_the_download_is_not_lost() {
    let (share, dir) = (Share::folder(), TempDir::new().unwrap());
    let path = dir.path().join("folder");
    fs::create_dir(&path).unwrap();
    let (store, _) = share.open_with(&dir, force()).unwrap();
    share.fetch(&store, share.all());
    fs::write(path.join("mine"), "mine").unwrap();
    assert!(matches!(store.finish(), Err(StoreError::WouldLose { .. })));
    assert_eq!(fs::read(path.join("mine")).unwrap(), b"mine");
    fs::remove_file(path.join("mine")).unwrap();
    store.finish().unwrap();
    share.assert_in_place(&dir);
}

#[test]
fn links_and_devices_are_refused_even_with_force() {
    let share = Share::film();
    for name in ["film", "film.part", "film.part.minibit"] {
        for kind in ["link", "dangling link", "fifo"] {
            let dir = TempDir::new().unwrap();
            let path = dir.path().join(name);
            plant(&path, kind);
            let outcome = share.open_with(&dir, force());
            assert!(matches!(outcome, Err(StoreError::NotOurs { .. })), "{name} {outcome:?}");
            assert_eq!(listing(&dir), [name]);
            let kept = path.symlink_metadata().unwrap().file_type();
            assert!(kept.is_symlink() || kept.is_fifo());
        }
    }
}

#[test]
fn a_part_without_a_journal_is_not_ours_unless_forced() {
    let (share, dir) = (Share::film(), TempDir::new().unwrap());
    let mut theirs = share.contents[0].clone();
    theirs[20_000] ^= 1;
    fs::write(dir.path().join("film.part"), &theirs).unwrap();
    assert!(matches!(share.open(&dir), Err(StoreError::PartExists { .. })));
    assert_eq!(listing(&dir), ["film.part"]);
    assert!(fs::read(dir.path().join("film.part")).unwrap() == theirs);
    let (store, resumed) = share.open_with(&dir, force()).unwrap();
    assert!(resumed.have.is_empty() && resumed.doubtful.is_full());
    assert_eq!(resumed.warnings, [ResumeWarning::NoJournal]);
    let block = share.geometry().block(0, 100, 50).unwrap();
    let mut buffer = [0; 50];
    store.read(block, &mut buffer).unwrap();
    assert_eq!(buffer, share.bytes(block));
}

#[test]
fn a_link_on_the_way_to_a_file_leads_nowhere() {
    let (share, dir) = (Share::folder(), TempDir::new().unwrap());
    let outside = TempDir::new().unwrap();
    let (store, _) = share.open(&dir).unwrap();
    drop(store);
    let inside = dir.path().join("folder.part/a");
    fs::remove_dir_all(&inside).unwrap();
    symlink(outside.path(), &inside).unwrap();
    assert!(share.open(&dir).is_err());

    fs::remove_file(&inside).unwrap();
    let (store, _) = share.open(&dir).unwrap();
    // Planted while the download runs, for a directory and for a file.
    fs::remove_dir_all(&inside).unwrap();
    symlink(outside.path(), &inside).unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    symlink(&secret, dir.path().join("folder.part/other")).unwrap();
    for piece in [0, 4] {
        let block = share.geometry().block(piece, 0, 9).unwrap();
        assert!(store.write(block, share.bytes(block)).is_err(), "piece {piece}");
    }
    assert_eq!(fs::read(&secret).unwrap(), b"secret");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn a_name_taken_during_the_download_is_not_overwritten_at_its_end() {
    for share in [Share::film(), Share::folder()] {
        let dir = TempDir::new().unwrap();
        let (store, _) = share.open(&dir).unwrap();
        share.fetch(&store, share.all());
        let path = dir.path().join(share.manifest.name());
        fs::write(&path, "mine").unwrap();
        assert!(matches!(store.finish(), Err(StoreError::TargetExists { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        fs::remove_file(&path).unwrap();
        store.finish().unwrap();
        share.assert_in_place(&dir);
    }
}

#[test]
fn a_download_that_died_after_its_last_rename_is_finished_by_the_next() {
    for share in [Share::film(), Share::folder()] {
        let dir = TempDir::new().unwrap();
        let (store, _) = share.open(&dir).unwrap();
        share.fetch(&store, share.all());
        store.parts.announce_finish(false).unwrap();
        store.parts.target.rename(Replace::Refuse).unwrap();
        drop(store);
        let (store, resumed) = share.open(&dir).unwrap();
        assert!(resumed.have.is_full());
        store.serve(share.geometry().piece(0).unwrap()).unwrap();
        drop(store);
        let (store, _) = share.open(&dir).unwrap();
        store.finish().unwrap();
        share.assert_in_place(&dir);
        assert_eq!(listing(&dir), [share.manifest.name()]);
    }
}

#[test]
fn a_file_that_only_looks_like_the_finished_one_is_refused() {
    let (share, dir) = (Share::film(), TempDir::new().unwrap());
    let (store, _) = share.open(&dir).unwrap();
    share.fetch(&store, share.all());
    store.parts.announce_finish(false).unwrap();
    drop(store);
    fs::remove_file(dir.path().join("film.part")).unwrap();
    fs::write(dir.path().join("film"), "short").unwrap();
    assert!(matches!(share.open(&dir), Err(StoreError::TargetExists { .. })));
    assert_eq!(fs::read(dir.path().join("film")).unwrap(), b"short");
}

#[test]
fn pieces_that_disappeared_from_the_disk_are_fetched_again() {
    let (share, dir) = (Share::folder(), TempDir::new().unwrap());
    let (store, _) = share.open(&dir).unwrap();
    share.fetch(&store, share.all());
    drop(store);
    let part = dir.path().join("folder.part");
    File::options().write(true).open(part.join("a/b/deep")).unwrap().set_len(20_000).unwrap();
    fs::remove_file(part.join("other")).unwrap();
    let (store, resumed) = share.open(&dir).unwrap();
    assert_eq!(numbers(&resumed.have), [0, 3]);
    assert_eq!(resumed.warnings, [ResumeWarning::Lost { pieces: 3 }]);
    share.fetch(&store, [1, 2, 4]);
    store.finish().unwrap();
    share.assert_in_place(&dir);
}

#[test]
fn a_damaged_or_foreign_journal_means_a_full_check_of_what_is_there() {
    let share = Share::film();
    let other = Share::new("film", &[(&["film"], 70_000)]);
    for (damage, warning) in [
        ("cut", ResumeWarning::CorruptJournal),
        ("flip", ResumeWarning::CorruptJournal),
        ("long", ResumeWarning::CorruptJournal),
        ("foreign", ResumeWarning::ForeignJournal),
    ] {
        let dir = TempDir::new().unwrap();
        let first = if damage == "foreign" { &other } else { &share };
        let (store, _) = first.open(&dir).unwrap();
        first.fetch(&store, [0, 1]);
        drop(store);
        let journal = dir.path().join("film.part.minibit");
        let file = File::options().write(true).open(&journal).unwrap();
        match damage {
            "cut" => file.set_len(70).unwrap(),
            "flip" => file.write_all_at(b"?", 64).unwrap(),
            "long" => file.set_len(1 << 30).unwrap(),
            _ => {}
        }
        let (store, resumed) = share.open(&dir).unwrap();
        assert_eq!(resumed.warnings, [warning], "{damage}");
        assert!(resumed.have.is_empty());
        let reachable = if damage == "foreign" { 4 } else { 7 };
        assert_eq!(resumed.doubtful.len(), reachable, "{damage}");
        // What is checked but not yet completed stays doubtful over another death.
        share.fetch(&store, [0]);
        drop(store);
        let (_, resumed) = share.open(&dir).unwrap();
        assert_eq!(numbers(&resumed.have), [0]);
        assert_eq!(resumed.doubtful.len(), reachable - 1);
        assert!(resumed.warnings.is_empty());
    }
}

#[test]
fn only_selected_files_are_made_and_another_selection_can_follow() {
    let (share, dir) = (Share::folder(), TempDir::new().unwrap());
    let open = |selection: [bool; 5]| {
        PartStore::open(dir.path(), &share.manifest, &selection, PartOptions::default())
    };
    let (store, _) = open([false, true, true, false, false]).unwrap();
    assert_eq!(numbers(store.wanted()), [3]);
    share.fetch(&store, [3]);
    drop(store);
    let mut made: Vec<PathBuf> = Vec::new();
    super::super::walk::walk::<super::super::walk::Unreadable>(
        &dir.path().join("folder.part"),
        &mut |path, _| {
            made.push(path.to_owned());
            Ok(())
        },
    )
    .unwrap();
    made.sort();
    assert_eq!(made, [Path::new("a/small"), Path::new("empty")]);
    let (store, resumed) = open([false, true, false, true, true]).unwrap();
    assert_eq!(numbers(&resumed.have), [3]);
    share.fetch(&store, [4]);
    store.finish().unwrap();
    assert!(!dir.path().join("folder/a/b").exists());
    assert!(dir.path().join("folder/z/empty").exists());
}

#[test]
fn a_share_that_cannot_fit_is_refused_with_both_numbers_and_leaves_nothing() {
    let size = crate::types::PieceSize::new(16 << 20).unwrap();
    let len = crate::types::limits::SHARE_LEN_MAX;
    let file = crate::content::FileEntry {
        path: vec!["huge".into()],
        len,
        root: crate::types::Digest([1; 32]),
    };
    let manifest = Manifest::new("huge".into(), true, size, vec![file]).unwrap();
    let dir = TempDir::new().unwrap();
    let outcome = PartStore::open(dir.path(), &manifest, &[true], PartOptions::default());
    match outcome {
        Err(error @ StoreError::NoSpace { needed, free, .. }) => {
            assert!(needed == len && free < len && error.is_disk_full());
        }
        other => panic!("this disk has room for 16 TiB? {other:?}"),
    }
    assert!(listing(&dir).is_empty());
}

#[test]
fn names_of_any_legal_length_and_two_long_ones_that_begin_alike_can_be_downloaded() {
    let dir = TempDir::new().unwrap();
    let mut open = Vec::new();
    for name in [
        "x".repeat(255),
        format!("{}y", "x".repeat(254)),
        format!("a{}", "é".repeat(127)),
        "x".repeat(238),
        "x".repeat(239),
    ] {
        let share = Share::new(&name, &[(&[&name], 10)]);
        let (store, _) = share.open(&dir).unwrap();
        share.fetch(&store, [0]);
        open.push((share, store));
    }
    for (share, store) in open {
        store.finish().unwrap();
        share.assert_in_place(&dir);
    }
}

#[test]
fn more_files_than_handles_may_be_open_are_written_and_served_all_the_same() {
    let names: Vec<String> = (0..300).map(|number| format!("file{number:03}")).collect();
    let paths: Vec<[&str; 1]> = names.iter().map(|name| [&**name]).collect();
    let files: Vec<(&[&str], usize)> = paths.iter().map(|path| (&path[..], 20_000)).collect();
    let (share, dir) = (Share::new("many", &files), TempDir::new().unwrap());
    let options = PartOptions { open_files: 4, ..PartOptions::default() };
    let (store, _) = share.open_with(&dir, options).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (store, share) = (&store, &share);
            scope.spawn(move || share.fetch(store, (thread..600).step_by(3)));
        }
    });
    store.checkpoint().unwrap();
    let served: Vec<Served> =
        share.geometry().pieces().map(|piece| store.serve(piece).unwrap()).collect();
    assert!(served.iter().all(|served| served.file.len() == 20_000));
    drop(served);
    store.finish().unwrap();
    share.assert_in_place(&dir);
}

#[test]
fn a_million_pieces_are_resumed_and_their_journal_stays_small() {
    let pieces = crate::types::limits::PIECES_MAX;
    let size = crate::types::PieceSize::new(16384).unwrap();
    let geometry = Geometry::new(size, [u64::from(pieces) * 16384]).unwrap();
    let share = crate::types::ShareId([3; 32]);
    let epoch = journal::Epoch([1; 16]);
    let nothing = Knowledge::nothing(pieces);
    let opening = Opening {
        share,
        geometry: &geometry,
        epoch,
        selection: &[true],
        knowledge: &nothing,
        finishing: false,
    };
    let mut journal = Journal::start(&opening, |header| {
        let file = tempfile::tempfile()?;
        file.write_all_at(header, 0)?;
        Ok(super::super::ServedFile::new(file, 0, SendMethod::default()))
    })
    .unwrap();
    for piece in geometry.pieces() {
        journal.piece(piece).unwrap();
    }
    let file = journal.file();
    let len = file.file().metadata().unwrap().len();
    assert!(len < 9_000_000, "{len}");
    assert!(len <= journal::len_max(&geometry));
    let mut bytes = vec![0; len as usize];
    file.read_at(&mut bytes, 0).unwrap();
    let found = journal::parse(&bytes, share, &geometry, epoch).unwrap();
    assert!(found.knowledge.live.is_full());
    let found = journal::parse(&bytes, share, &geometry, journal::Epoch([2; 16])).unwrap();
    assert!(found.knowledge.live.is_empty() && found.knowledge.doubtful.is_full());
}

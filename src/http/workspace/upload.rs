//! Several files in one request (`multipart/form-data`). They get their names when all have arrived and none stands in
//! the way: what is refused before that has changed nothing.

use axum::http::{HeaderMap, Uri};
use pi_gateway_helper::names::User;

use super::files::Uploaded;
use super::parts::{OVERHEAD, Parts};
use super::{FileEntry, failed, hold, kept, put, refused};
use crate::http::App;
use crate::http::parameters::Parameters;
use crate::http::problem::{self, Problem};
use crate::worker::message::{Condition, Failure, Request};
use crate::workspace::connection::AskError;
use crate::workspace::workers::WorkerError;

/// The most files of one request; each is open until all have arrived.
const MAX_FILES: usize = 32;

/// Receives the files of a request.
pub async fn upload(
    app: &App,
    user: &User,
    uri: &Uri,
    headers: &HeaderMap,
    mut parts: Parts,
) -> Result<Uploaded, Box<Problem>> {
    let parameters = Parameters::of(uri, &["path", "overwrite"])?;
    let (directory, overwrite) = (parameters.path("path"), parameters.flag("overwrite")?);
    put::check_announced(headers, app.max_upload + OVERHEAD)?;
    drop(hold(app, user).await?);
    let mut budget = put::Budget::new(app);
    let mut arrived: Vec<(Vec<u8>, put::Received)> = Vec::new();
    while let Some(part) = budget.within(parts.next()).await?? {
        let Some(name) = part.file_name() else {
            return Err(Problem::new(problem::INVALID_REQUEST, "Every part needs a filename."));
        };
        if arrived.len() == MAX_FILES {
            return Err(Problem::new(problem::PAYLOAD_TOO_LARGE, format!("At most {MAX_FILES} files at a time.")));
        }
        let path = join(&directory, name.as_bytes());
        if arrived.iter().any(|(there, _)| *there == path) {
            return Err(Problem::new(problem::INVALID_REQUEST, "Two parts have the same filename."));
        }
        let received = put::receive_stream(app, user, path.clone(), part, &mut budget).await?;
        arrived.push((path, received));
    }
    if arrived.is_empty() {
        return Err(Problem::new(problem::INVALID_REQUEST, "There is no file in it."));
    }
    let hold = hold(app, user).await?;
    let condition = if overwrite { Condition::None } else { Condition::Absent };
    if !overwrite {
        for (path, _) in &arrived {
            match app.workers.ask(user, Request::Stat(path.clone())).await {
                Ok(_) => return Err(failed(Failure::Exists)),
                Err(WorkerError::Ask(AskError::Failed(Failure::NotFound))) => {}
                Err(error) => return Err(refused(error)),
            }
        }
    }
    put::check_quota(app, user, arrived.iter().map(|(_, received)| received)).await?;
    let named = async move {
        let mut data = Vec::with_capacity(arrived.len());
        for (path, received) in arrived {
            data.push(FileEntry::from(received.commit(path, condition).await?));
        }
        Ok(Uploaded { data })
    };
    kept(hold, named).await.map(|(_hold, uploaded)| uploaded)
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

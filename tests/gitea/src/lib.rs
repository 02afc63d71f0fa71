//! A small Gitea for tests: git's own `http-backend` behind Gitea's answers to who may do what.
//!
//! Repositories are `<root>/<owner>/<name>.git` ([`repository::create`]); all are private. As in Gitea (routers/web/repo
//! of its source): without credentials, or with wrong ones, the answer is 401 with a challenge, whatever is asked for; a
//! repository that is not there or that the account may not see is 404; a push to one that is not there is 403, because
//! push-to-create is off; a push to an archived one is 403; a push with the right to read only is let in and refused by
//! the hook, ref by ref. `GET /api/v1/repos/<owner>/<name>` tells with which right. Anything can be made to go wrong with a file `<root>/fault` ([`fault`]).

pub mod backend;
pub mod fault;
pub mod repository;
pub mod server;

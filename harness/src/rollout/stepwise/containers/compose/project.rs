//! Which containers of a Compose project are meant: from what the engine lists and what was asked for. Pure.
//!
//! Both Compose versions label each container with its project, its service, its number, the project's directory and the
//! files that the project was made from.

use std::collections::BTreeSet;
use std::path::Path;

use crate::host::engine::{Listed, SERVER_TITLE, TITLE_LABEL};

/// The label that every container of a Compose project carries.
pub(super) const SERVICE_LABEL: &str = "com.docker.compose.service";
const PROJECT_LABEL: &str = "com.docker.compose.project";
const DIRECTORY_LABEL: &str = "com.docker.compose.project.working_dir";
const FILES_LABEL: &str = "com.docker.compose.project.config_files";
const NUMBER_LABEL: &str = "com.docker.compose.container-number";
/// `True` for what `docker compose run` has started.
const ONE_OFF_LABEL: &str = "com.docker.compose.oneoff";

/// What the names of proxies' images contain.
const PROXIES: [&str; 8] = ["proxy", "nginx", "traefik", "caddy", "envoy", "httpd", "kong", "openresty"];

/// The running containers of one Compose project.
#[derive(Debug)]
pub(super) struct Project(Vec<Listed>);

/// A container that is to be rolled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Chosen {
    /// The service, with a number if it has several containers.
    pub(super) name: String,
    pub(super) id: String,
    /// Whether it is our server.
    pub(super) is_ours: bool,
}

impl Project {
    /// The project that was made from `file`, a canonical path; the one of that name, if several were.
    ///
    /// # Errors
    /// None runs, or several do and no name says which.
    pub(super) fn of(file: &Path, name: Option<&str>, listed: Vec<Listed>) -> Result<Self, String> {
        let project_of = |container: &Listed| label(container, PROJECT_LABEL).to_owned();
        let running: Vec<Listed> = listed
            .into_iter()
            .filter(|container| {
                container.is_running && !label(container, ONE_OFF_LABEL).eq_ignore_ascii_case("true")
            })
            .filter(|container| is_made_from(container, file))
            .filter(|container| name.is_none_or(|name| project_of(container) == name))
            .collect();
        let projects: BTreeSet<String> = running.iter().map(project_of).collect();
        match projects.len() {
            0 => Err("no service of it runs; `docker compose up -d` first".to_owned()),
            1 => Ok(Self(running)),
            _ => {
                let names: Vec<String> = projects.into_iter().collect();
                Err(format!(
                    "projects {} run from it; say which with COMPOSE_PROJECT_NAME",
                    names.join(" and ")
                ))
            }
        }
    }

    /// The containers of these services; without any, those of the one image that the host's `port` leads to.
    ///
    /// # Errors
    /// A service does not run, or it is not clear which are meant.
    pub(super) fn choose(&self, services: &[String], port: u16) -> Result<Vec<Chosen>, String> {
        let running = self.services();
        if let Some(missing) = services.iter().find(|service| !running.contains(service.as_str())) {
            return Err(format!(
                "service `{missing}` does not run (running: {}); `docker compose up -d` first",
                list(&running)
            ));
        }
        let is_wanted = |container: &&Listed| {
            if services.is_empty() {
                container.is_on_host_network || container.published.contains(&port)
            } else {
                services.iter().any(|service| service == label(container, SERVICE_LABEL))
            }
        };
        let wanted: Vec<&Listed> = self.0.iter().filter(is_wanted).collect();
        if wanted.is_empty() {
            return Err(format!(
                "no service (running: {}) uses the host's network or publishes port {port}; name those to roll with \
                 --service",
                list(&running)
            ));
        }
        let images: BTreeSet<&str> = wanted.iter().map(|container| repository(&container.image)).collect();
        if services.is_empty() && images.len() > 1 {
            let found = wanted.iter().map(|container| label(container, SERVICE_LABEL)).collect();
            return Err(format!(
                "services {} are not of one image; name those to roll with --service",
                list(&found)
            ));
        }
        let others: BTreeSet<&str> = running
            .iter()
            .copied()
            .filter(|service| wanted.iter().all(|container| label(container, SERVICE_LABEL) != *service))
            .collect();
        if let Some(proxy) = wanted.iter().find(|container| is_proxy(&container.image))
            && services.is_empty()
            && !others.is_empty()
        {
            let proxy_service = label(proxy, SERVICE_LABEL);
            return Err(format!(
                "port {port} leads to service `{proxy_service}`, whose image {} looks like a proxy: name the services \
                 behind it with --service (running: {}), or roll the proxy itself with --service {proxy_service}",
                proxy.image,
                list(&others)
            ));
        }
        let mut chosen: Vec<Chosen> = wanted.into_iter().map(Chosen::of).collect();
        chosen.sort();
        Ok(chosen)
    }

    fn services(&self) -> BTreeSet<&str> {
        self.0.iter().map(|container| label(container, SERVICE_LABEL)).collect()
    }
}

impl Chosen {
    fn of(container: &Listed) -> Self {
        let service = label(container, SERVICE_LABEL);
        let name = match label(container, NUMBER_LABEL) {
            "" | "1" => service.to_owned(),
            number => format!("{service}-{number}"),
        };
        let is_ours = label(container, TITLE_LABEL) == SERVER_TITLE;
        Self { name, id: container.id.clone(), is_ours }
    }
}

fn label<'a>(container: &'a Listed, name: &str) -> &'a str {
    container.labels.get(name).map_or("", String::as_str)
}

fn list(names: &BTreeSet<&str>) -> String {
    names.iter().copied().collect::<Vec<_>>().join(", ")
}

/// Whether an image is a proxy's, going by the last part of its name.
fn is_proxy(image: &str) -> bool {
    let name = repository(image).rsplit('/').next().unwrap_or_default();
    PROXIES.iter().any(|proxy| name.contains(proxy))
}

/// An image's reference without tag and digest.
fn repository(image: &str) -> &str {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

/// Whether a container's project was made from `file`, a canonical path; labels may hold symbolic links. Compose 1 writes
/// the files as it was given them, relative to a directory that it does not tell: then the name and the project's
/// directory have to do.
fn is_made_from(container: &Listed, file: &Path) -> bool {
    let canonical = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = Path::new(label(container, DIRECTORY_LABEL));
    let is_in_directory = || file.parent() == Some(&*canonical(directory));
    let files = label(container, FILES_LABEL);
    if files.is_empty() {
        return is_in_directory();
    }
    files.split(',').map(Path::new).any(|made_from| {
        if made_from.is_absolute() {
            canonical(made_from) == file
        } else {
            made_from.file_name() == file.file_name() && is_in_directory()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(service: &str, image: &str) -> Listed {
        let labels = [
            (SERVICE_LABEL, service),
            (PROJECT_LABEL, "shop"),
            (DIRECTORY_LABEL, "/srv/shop"),
            (FILES_LABEL, "/srv/shop/compose.yaml,/srv/shop/compose.override.yaml"),
            (NUMBER_LABEL, "1"),
        ];
        Listed {
            id: format!("id of {service}"),
            image: image.to_owned(),
            is_running: true,
            is_on_host_network: true,
            labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ..Listed::default()
        }
    }

    fn with(mut container: Listed, name: &str, value: &str) -> Listed {
        container.labels.insert(name.to_owned(), value.to_owned());
        container
    }

    fn inside(container: Listed) -> Listed {
        Listed { is_on_host_network: false, ..container }
    }

    fn chosen(listed: Vec<Listed>, services: &[&str]) -> Result<Vec<String>, String> {
        let services: Vec<String> = services.iter().map(ToString::to_string).collect();
        let project = Project::of(Path::new("/srv/shop/compose.yaml"), None, listed)?;
        Ok(project.choose(&services, 8080)?.into_iter().map(|one| one.name).collect())
    }

    #[test]
    fn services_that_the_port_leads_to_are_chosen_and_no_others() {
        let published = Listed { published: vec![8080], ..inside(container("proxy", "proxy:1")) };
        let database = Listed { published: vec![5432], ..inside(container("database", "postgres:17")) };
        let shop = vec![container("web-b", "shop:2"), container("web-a", "shop:1"), database.clone()];
        assert_eq!(chosen(shop, &[]).unwrap(), ["web-a", "web-b"]);
        let web = Listed { published: vec![8080], ..inside(container("web", "nginx-shop/web:1")) };
        assert_eq!(chosen(vec![web, database.clone()], &[]).unwrap(), ["web"]);
        assert_eq!(
            chosen(vec![published], &[]).unwrap(),
            ["proxy"],
            "there is nothing else that could be meant"
        );
        let error = chosen(vec![database], &[]).unwrap_err();
        assert!(error.contains("publishes port 8080; name those to roll with --service"), "{error}");
    }

    #[test]
    fn proxy_is_rolled_only_if_it_is_named() {
        let project = || {
            let front =
                Listed { published: vec![8080], ..inside(container("front", "registry:5000/x/nginx:1.27")) };
            vec![front, inside(container("web", "shop:1"))]
        };
        let error = chosen(project(), &[]).unwrap_err();
        assert_eq!(
            error,
            "port 8080 leads to service `front`, whose image registry:5000/x/nginx:1.27 looks like a proxy: name the \
             services behind it with --service (running: web), or roll the proxy itself with --service front"
        );
        assert_eq!(chosen(project(), &["front"]).unwrap(), ["front"]);
        assert_eq!(chosen(project(), &["web"]).unwrap(), ["web"]);
    }

    #[test]
    fn services_of_different_images_have_to_be_named() {
        let two =
            || vec![container("web", "registry:5000/shop:1"), container("cache", "registry:5000/cache:1")];
        let error = chosen(two(), &[]).unwrap_err();
        assert_eq!(error, "services cache, web are not of one image; name those to roll with --service");
        assert_eq!(chosen(two(), &["cache", "web"]).unwrap(), ["cache", "web"]);
    }

    #[test]
    fn service_is_matched_by_its_whole_name() {
        let admin = || vec![container("web-admin", "shop:1")];
        let error = chosen(admin(), &["web"]).unwrap_err();
        assert!(error.starts_with("service `web` does not run (running: web-admin)"), "{error}");
        let scaled = vec![with(container("web", "shop:1"), NUMBER_LABEL, "2"), container("web", "shop:1")];
        assert_eq!(chosen(scaled, &["web"]).unwrap(), ["web", "web-2"]);
    }

    #[test]
    fn only_what_runs_from_the_file_is_of_the_project() {
        let stopped = Listed { is_running: false, ..container("web", "shop:1") };
        let one_off = with(container("web", "shop:1"), ONE_OFF_LABEL, "True");
        let elsewhere = with(container("web", "shop:1"), FILES_LABEL, "/srv/shop/compose.test.yaml");
        let error = chosen(vec![stopped, one_off, elsewhere], &[]).unwrap_err();
        assert_eq!(error, "no service of it runs; `docker compose up -d` first");
        let old = with(container("web", "shop:1"), FILES_LABEL, "compose.yaml");
        assert_eq!(chosen(vec![old.clone()], &[]).unwrap(), ["web"]);
        assert!(chosen(vec![with(old, DIRECTORY_LABEL, "/srv/other")], &[]).is_err());
    }

    #[test]
    fn two_projects_of_one_file_have_to_be_told_apart() {
        let two =
            || vec![container("web", "shop:1"), with(container("web", "shop:1"), PROJECT_LABEL, "test")];
        let error = chosen(two(), &[]).unwrap_err();
        assert_eq!(error, "projects shop and test run from it; say which with COMPOSE_PROJECT_NAME");
        let project = Project::of(Path::new("/srv/shop/compose.yaml"), Some("test"), two()).unwrap();
        assert_eq!(project.choose(&[], 8080).unwrap().len(), 1);
    }

    #[test]
    fn file_is_found_through_a_symbolic_link() {
        let root = tempfile::tempdir().unwrap();
        let real = std::fs::canonicalize(root.path()).unwrap().join("real");
        let link = root.path().join("link");
        std::fs::create_dir(&real).unwrap();
        std::fs::write(real.join("compose.yaml"), "").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let linked =
            with(container("web", "shop:1"), FILES_LABEL, &link.join("compose.yaml").display().to_string());
        assert!(Project::of(&real.join("compose.yaml"), None, vec![linked]).is_ok());
    }

    #[test]
    fn our_server_is_known_by_what_its_image_says() {
        let ours = with(container("web-a", "any:1"), TITLE_LABEL, SERVER_TITLE);
        let project =
            Project::of(Path::new("/srv/shop/compose.yaml"), None, vec![ours, container("web-b", "any:1")]);
        let chosen = project.unwrap().choose(&[], 8080).unwrap();
        assert_eq!(chosen.iter().map(|one| one.is_ours).collect::<Vec<_>>(), [true, false]);
    }
}

// The console: signing in and out, and which pane is seen on a narrow screen.

import { call, isSignedIn, session, signIn, signOut, user } from './api.js';
import { byId, say } from './dom.js';
import * as files from './files.js';
import * as runs from './runs.js';

function showSignIn(problem = '') {
  signOut();
  runs.close();
  files.close();
  byId('question').close();
  byId('console').hidden = true;
  byId('sign-in').hidden = false;
  say('sign-in-problem', problem);
  byId('token').focus();
}

async function showConsole() {
  byId('sign-in').hidden = true;
  byId('console').hidden = false;
  say('user', user());
  const failed = (error) => say('prompt-problem', error.message);
  await Promise.all([runs.open().catch(failed), files.open()]);
}

byId('sign-in-form').onsubmit = async (event) => {
  event.preventDefault();
  say('sign-in-problem', '');
  signIn(byId('token').value.trim());
  byId('token').value = '';
  try {
    await call('GET', 'models');
  } catch (error) {
    showSignIn(error.status === 401 ? `The token is not accepted: ${error.message}` : error.message);
    return;
  }
  await showConsole();
};
byId('sign-out').onclick = () => showSignIn();
session.addEventListener('ended', ({ detail }) => showSignIn(`You are signed out: ${detail}`));

function showPane() {
  for (const tab of document.querySelectorAll('[data-tab]')) {
    tab.setAttribute('aria-pressed', String(tab.dataset.tab === document.body.dataset.pane));
  }
}
for (const tab of document.querySelectorAll('[data-tab]')) {
  tab.onclick = () => {
    document.body.dataset.pane = tab.dataset.tab;
    showPane();
  };
}
document.addEventListener('pane', showPane);
showPane();

runs.connect(files.setBusy);
files.connect();
if (isSignedIn()) showConsole();
else showSignIn();

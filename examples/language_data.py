"""Sentences in ten languages, written for this project, and their split into training and held-out ones.

The language identifier is trained on `training()` and judged on `held_out()`: every fourth sentence of each language
is held out, so no held-out sentence was seen in training. The file is long because it is data.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["LANGUAGES", "SENTENCES", "encode", "held_out", "training"]

HELD_OUT_EVERY = 4

_GERMAN = """
Guten Morgen, wie haben Sie geschlafen?
Der Zug nach Hamburg hat heute zwanzig Minuten Verspätung.
Meine Großmutter backt jeden Sonntag einen Apfelkuchen.
Es regnet schon seit gestern Abend ohne Unterbrechung.
Wo ist der nächste Bahnhof?
Die Kinder spielen im Garten hinter dem alten Haus.
Ich habe meinen Schlüssel wieder im Büro liegen lassen.
Kannst du mir bitte das Salz reichen?
Die Wissenschaftler haben einen bisher unbekannten Stern entdeckt.
Am Wochenende wollen wir in den Bergen wandern gehen.
Das Museum öffnet um zehn Uhr und schließt um sechs.
Er liest die Zeitung, während der Kaffee langsam kalt wird.
Wir müssen noch Brot, Milch und Käse einkaufen.
Vielen Dank für die schnelle Antwort.
Der Hund schläft am liebsten vor der warmen Heizung.
Ihre Schwester studiert seit zwei Jahren Medizin in Wien.
Das Fenster lässt sich nicht mehr richtig schließen.
Im Herbst färben sich die Blätter der Bäume rot und gelb.
Hast du gehört, dass die Brücke gesperrt ist?
Der Bäcker an der Ecke verkauft die besten Brezeln der Stadt.
Ich verstehe die letzte Aufgabe überhaupt nicht.
Früher fuhr hier noch eine kleine Straßenbahn.
Nach dem Spiel waren alle müde, aber zufrieden.
Bitte schalten Sie Ihr Telefon während der Vorstellung aus.
Der Fluss ist im Frühjahr oft über die Ufer getreten.
Sie hat ein neues Fahrrad zum Geburtstag bekommen.
Wie viel kostet eine Fahrkarte für die ganze Woche?
Unser Nachbar repariert seit Stunden seinen Rasenmäher.
Morgen früh soll es auf den Straßen glatt sein.
Die Rechnung stimmt nicht, ich habe nur ein Glas Wasser bestellt.
Das Buch erzählt die Geschichte eines jungen Fischers.
Ohne Brille kann ich das Schild dort drüben nicht lesen.
Der Chef ist bis Freitag auf Dienstreise.
Zwischen den Häusern wächst ein riesiger Kastanienbaum.
Warum hast du mich gestern nicht angerufen?
Die Suppe schmeckt besser, wenn sie eine Nacht gestanden hat.
Bei diesem Wetter bleibe ich lieber zu Hause.
Der Lehrer erklärte die Regel noch einmal ganz langsam.
Wir suchen eine Wohnung mit drei Zimmern und Balkon.
Das Schiff erreichte den Hafen erst nach Mitternacht.
Alles Gute für die Prüfung!
Mein Bruder spielt seit seiner Kindheit Geige.
In der Küche riecht es nach frischem Knoblauch.
Die Ärztin hat ihm geraten, mehr zu schlafen.
Trotz der Kälte standen viele Menschen auf dem Marktplatz.
Könnten Sie das bitte etwas lauter wiederholen?
Der Schnee blieb in diesem Winter nur wenige Tage liegen.
Ich freue mich sehr auf deinen Besuch.
Die Bibliothek hat über hunderttausend Bücher.
Nachdem der Strom ausgefallen war, zündeten wir Kerzen an.
Er kommt immer zu spät und hat immer eine Ausrede.
Auf dem Dach sitzen drei schwarze Vögel.
Der neue Computer arbeitet deutlich schneller als der alte.
Sollen wir zu Fuß gehen oder den Bus nehmen?
Die Stadt wurde vor mehr als achthundert Jahren gegründet.
Sie trägt heute ihren grünen Mantel.
Niemand wusste, woher das seltsame Geräusch kam.
Das Essen steht auf dem Tisch.
Die Firma sucht dringend erfahrene Handwerker.
Im Urlaub haben wir jeden Tag im See gebadet.
"""

_ENGLISH = """
Good morning, did you sleep well?
The last bus leaves from the corner at half past eleven.
My grandfather kept bees behind the old stone barn.
It has been raining since yesterday evening.
Where can I buy a ticket?
The children were building a castle out of wet sand.
I must have left my umbrella on the train again.
Could you pass me the bread, please?
Engineers spent three years testing the new bridge before it opened.
We are planning to walk along the coast this weekend.
The library closes early on Fridays.
She reads the paper while her tea goes cold.
There is nothing left in the fridge but a jar of pickles.
Thank you for answering so quickly.
The cat sleeps wherever the sun happens to fall.
His sister has been studying law in Dublin for two years.
That door never shuts properly when the weather is damp.
In autumn the whole valley turns red and gold.
Have you heard that the swimming pool is closed?
The shop on the high street sells the best cheese in town.
I do not understand the last question at all.
A small ferry used to cross the river here every hour.
Everyone was tired after the match, but nobody wanted to go home.
Please switch off your phone during the performance.
The harbour froze over twice that winter.
He was given a bicycle for his tenth birthday.
How much would it cost to stay for the whole week?
Our neighbour has been mending his fence since dawn.
The roads will be icy tomorrow morning.
This bill is wrong, because we only ordered soup and water.
The novel follows a young fisherman who leaves his island.
Without my glasses I cannot read that sign.
The manager is away until Thursday.
A huge chestnut tree grows between the two houses.
Why did you not call me last night?
The stew tastes better if you let it stand until the next day.
I would rather stay at home in this weather.
The teacher explained the rule again, slowly and with an example.
They are looking for a flat with two bedrooms and a balcony.
The ship reached the port well after midnight.
Good luck with your exam!
My brother has played the cello since he was six.
The kitchen smells of garlic and fresh basil.
The doctor told him to drink less coffee and sleep more.
Despite the cold, hundreds of people stood in the square.
Would you mind saying that a little louder?
Snow stayed on the ground for only a few days this year.
I am really looking forward to your visit.
The museum owns more than ten thousand photographs.
When the power failed we lit candles and told stories.
He is always late and always has an excuse.
Three black birds are sitting on the roof.
The new printer is much faster than the one it replaced.
Should we walk, or shall we take a taxi?
The town was founded by traders more than eight hundred years ago.
She is wearing her green coat today.
Nobody knew where the strange noise was coming from.
Dinner is on the table.
The company needs people who know how to weld.
On holiday we swam in the lake every single day.
"""

_SPANISH = """
Buenos días, ¿cómo ha dormido usted?
El autobús para Sevilla sale dentro de quince minutos.
Mi abuela prepara una tortilla enorme todos los domingos.
Lleva lloviendo desde ayer por la tarde.
¿Dónde está la estación de tren?
Los niños juegan en el patio de la escuela.
Creo que he vuelto a dejar las llaves en la oficina.
¿Me pasas la sal, por favor?
Los investigadores han descubierto una especie de rana desconocida.
Este fin de semana queremos subir a la montaña.
El museo abre a las diez y cierra a las ocho.
Ella lee el periódico mientras se le enfría el café.
Todavía tenemos que comprar pan, leche y huevos.
Muchas gracias por la respuesta.
El perro duerme siempre junto a la chimenea.
Su hermana estudia medicina en Granada desde hace dos años.
La ventana de la cocina ya no cierra bien.
En otoño las hojas de los árboles se vuelven amarillas.
¿Has oído que el puente está cortado?
La panadería de la esquina vende los mejores bollos del barrio.
No entiendo nada de la última pregunta.
Antes pasaba por aquí un pequeño tranvía.
Después del partido todos estaban cansados pero contentos.
Por favor, apaguen sus teléfonos durante la función.
El río se desborda casi todas las primaveras.
Le regalaron una bicicleta nueva por su cumpleaños.
¿Cuánto cuesta un billete para toda la semana?
Nuestro vecino lleva horas arreglando la moto.
Mañana habrá niebla en las carreteras del norte.
La cuenta está mal, solo hemos pedido dos vasos de agua.
La novela cuenta la vida de un joven pescador gallego.
Sin gafas no puedo leer ese cartel.
El jefe está de viaje hasta el jueves.
Entre las dos casas crece un castaño muy viejo.
¿Por qué no me llamaste anoche?
El guiso está más rico si se deja reposar un día entero.
Con este tiempo prefiero quedarme en casa.
La profesora explicó la regla otra vez, muy despacio.
Buscamos un piso con tres habitaciones y terraza.
El barco llegó al puerto después de medianoche.
¡Mucha suerte con el examen!
Mi hermano toca la guitarra desde pequeño.
La cocina huele a ajo y a perejil.
El médico le aconsejó dormir más y trabajar menos.
A pesar del frío había mucha gente en la plaza.
¿Podría repetirlo un poco más alto?
Este invierno la nieve duró muy pocos días.
Tengo muchas ganas de verte.
La biblioteca guarda más de cien mil libros.
Cuando se fue la luz encendimos unas velas.
Siempre llega tarde y siempre tiene una excusa.
Hay tres pájaros negros en el tejado.
El ordenador nuevo es mucho más rápido que el viejo.
¿Vamos andando o cogemos un taxi?
La ciudad fue fundada hace más de ochocientos años.
Hoy lleva puesto su abrigo verde.
Nadie sabía de dónde venía aquel ruido tan extraño.
La comida está en la mesa.
La empresa necesita gente con experiencia en soldadura.
Durante las vacaciones nos bañábamos en el lago cada día.
"""

_FINNISH = """
Hyvää huomenta, nukuitko hyvin?
Juna Tampereelle on tänään kaksikymmentä minuuttia myöhässä.
Isoäitini leipoo joka sunnuntai omenapiirakan.
Ulkona on satanut eilisillasta asti.
Missä on lähin rautatieasema?
Lapset leikkivät vanhan talon takana olevassa puutarhassa.
Unohdin taas avaimeni toimistoon.
Voisitko ojentaa minulle suolan?
Tutkijat ovat löytäneet aiemmin tuntemattoman tähden.
Viikonloppuna aiomme lähteä vaeltamaan tunturiin.
Museo aukeaa kymmeneltä ja sulkeutuu kuudelta.
Hän lukee sanomalehteä, kun kahvi jäähtyy pöydällä.
Meidän pitää vielä ostaa leipää, maitoa ja juustoa.
Kiitos paljon nopeasta vastauksesta.
Koira nukkuu mieluiten lämpimän takan edessä.
Hänen siskonsa on opiskellut lääketiedettä Turussa kaksi vuotta.
Keittiön ikkuna ei mene enää kunnolla kiinni.
Syksyllä puiden lehdet muuttuvat punaisiksi ja keltaisiksi.
Oletko kuullut, että silta on suljettu?
Kulman leipomossa myydään kaupungin parhaita pullia.
En ymmärrä viimeistä tehtävää ollenkaan.
Ennen täällä kulki pieni raitiovaunu.
Ottelun jälkeen kaikki olivat väsyneitä mutta tyytyväisiä.
Sulkekaa puhelimenne esityksen ajaksi.
Joki tulvii melkein joka kevät.
Hän sai syntymäpäivälahjaksi uuden polkupyörän.
Paljonko maksaa lippu koko viikoksi?
Naapurimme on korjannut ruohonleikkuria jo monta tuntia.
Huomisaamuna tiet ovat liukkaita.
Lasku on väärin, tilasin vain lasin vettä.
Kirja kertoo nuoresta kalastajasta, joka jättää saarensa.
Ilman silmälaseja en näe lukea tuota kylttiä.
Johtaja on työmatkalla perjantaihin asti.
Talojen välissä kasvaa valtava vanha vaahtera.
Miksi et soittanut minulle eilen?
Keitto maistuu paremmalta, kun se on seissyt yön yli.
Tällaisella säällä jään mieluummin kotiin.
Opettaja selitti säännön vielä kerran hyvin hitaasti.
Etsimme kolmen huoneen asuntoa, jossa on parveke.
Laiva saapui satamaan vasta puolenyön jälkeen.
Onnea kokeeseen!
Veljeni on soittanut viulua lapsesta saakka.
Keittiössä tuoksuu tuore valkosipuli.
Lääkäri neuvoi häntä nukkumaan enemmän.
Kylmyydestä huolimatta torilla seisoi paljon ihmisiä.
Voisitteko toistaa sen hieman kovempaa?
Tänä talvena lumi pysyi maassa vain muutaman päivän.
Odotan vierailuasi innolla.
Kirjastossa on yli satatuhatta kirjaa.
Kun sähköt katkesivat, sytytimme kynttilöitä.
Hän tulee aina myöhässä ja keksii aina tekosyyn.
Katolla istuu kolme mustaa lintua.
Uusi tietokone on paljon nopeampi kuin vanha.
Kävelemmekö vai menemmekö bussilla?
Kaupunki perustettiin yli kahdeksansataa vuotta sitten.
Hänellä on tänään vihreä takki päällään.
Kukaan ei tiennyt, mistä outo ääni kuului.
Ruoka on pöydässä.
Yritys etsii kokeneita hitsaajia.
Lomalla uimme järvessä joka ainoa päivä.
"""

_FRENCH = """
Bonjour, avez-vous bien dormi ?
Le train pour Lyon partira avec vingt minutes de retard.
Ma grand-mère fait une tarte aux pommes chaque dimanche.
Il pleut sans arrêt depuis hier soir.
Où se trouve la gare la plus proche ?
Les enfants jouent dans le jardin derrière la vieille maison.
J'ai encore oublié mes clés au bureau.
Peux-tu me passer le sel, s'il te plaît ?
Des chercheurs viennent de découvrir une étoile inconnue.
Ce week-end, nous voulons marcher en montagne.
Le musée ouvre à dix heures et ferme à dix-huit heures.
Elle lit le journal pendant que son café refroidit.
Il faut encore acheter du pain, du lait et du fromage.
Merci beaucoup pour votre réponse.
Le chien dort toujours devant la cheminée.
Sa sœur étudie le droit à Toulouse depuis deux ans.
La fenêtre de la cuisine ne ferme plus très bien.
En automne, les feuilles des arbres deviennent rouges et jaunes.
As-tu entendu dire que le pont est fermé ?
La boulangerie du coin vend les meilleurs croissants de la ville.
Je ne comprends rien à la dernière question.
Autrefois, un petit tramway passait par ici.
Après le match, tout le monde était fatigué mais heureux.
Veuillez éteindre vos téléphones pendant le spectacle.
La rivière déborde presque tous les printemps.
Il a reçu un nouveau vélo pour son anniversaire.
Combien coûte un billet pour toute la semaine ?
Notre voisin répare sa tondeuse depuis des heures.
Demain matin, les routes seront verglacées.
L'addition est fausse, nous n'avons commandé que de l'eau.
Le roman raconte la vie d'un jeune pêcheur breton.
Sans lunettes, je n'arrive pas à lire ce panneau.
Le directeur est en voyage jusqu'à jeudi.
Un immense châtaignier pousse entre les deux maisons.
Pourquoi ne m'as-tu pas appelé hier soir ?
La soupe est meilleure quand on la laisse reposer une nuit.
Avec ce temps, je préfère rester chez moi.
Le professeur a expliqué la règle encore une fois, très lentement.
Nous cherchons un appartement de trois pièces avec balcon.
Le bateau est arrivé au port bien après minuit.
Bonne chance pour ton examen !
Mon frère joue du violon depuis l'enfance.
Dans la cuisine, ça sent l'ail et le persil.
Le médecin lui a conseillé de dormir davantage.
Malgré le froid, il y avait beaucoup de monde sur la place.
Pourriez-vous répéter un peu plus fort ?
Cet hiver, la neige n'est restée que quelques jours.
Je me réjouis de ta visite.
La bibliothèque possède plus de cent mille livres.
Quand le courant a été coupé, nous avons allumé des bougies.
Il arrive toujours en retard avec une bonne excuse.
Trois oiseaux noirs sont posés sur le toit.
Le nouvel ordinateur est beaucoup plus rapide que l'ancien.
On y va à pied ou on prend le bus ?
La ville a été fondée il y a plus de huit cents ans.
Aujourd'hui, elle porte son manteau vert.
Personne ne savait d'où venait ce bruit étrange.
Le repas est sur la table.
L'entreprise cherche des artisans expérimentés.
Pendant les vacances, on se baignait dans le lac tous les jours.
"""

_ITALIAN = """
Buongiorno, ha dormito bene?
Il treno per Bologna è in ritardo di venti minuti.
Mia nonna prepara le lasagne ogni domenica.
Piove senza sosta da ieri sera.
Dov'è la stazione più vicina?
I bambini giocano nel giardino dietro la vecchia casa.
Ho lasciato di nuovo le chiavi in ufficio.
Mi passi il sale, per favore?
Gli scienziati hanno scoperto una stella finora sconosciuta.
Questo fine settimana vogliamo camminare in montagna.
Il museo apre alle dieci e chiude alle sei.
Lei legge il giornale mentre il caffè si raffredda.
Dobbiamo ancora comprare il pane, il latte e le uova.
Grazie mille per la risposta così veloce.
Il cane dorme sempre vicino al camino.
Sua sorella studia medicina a Padova da due anni.
La finestra della cucina non si chiude più bene.
In autunno le foglie degli alberi diventano rosse e gialle.
Hai sentito che il ponte è chiuso?
Il fornaio all'angolo vende la focaccia più buona della città.
Non capisco niente dell'ultima domanda.
Una volta di qui passava un piccolo tram.
Dopo la partita erano tutti stanchi ma contenti.
Si prega di spegnere i telefoni durante lo spettacolo.
Il fiume straripa quasi ogni primavera.
Per il compleanno gli hanno regalato una bicicletta nuova.
Quanto costa un biglietto per tutta la settimana?
Il nostro vicino aggiusta il tosaerba da ore.
Domani mattina le strade saranno ghiacciate.
Il conto è sbagliato, abbiamo ordinato soltanto un bicchiere d'acqua.
Il romanzo racconta la storia di un giovane pescatore.
Senza occhiali non riesco a leggere quel cartello.
Il direttore è in viaggio fino a giovedì.
Tra le due case cresce un castagno enorme.
Perché non mi hai chiamato ieri sera?
La zuppa è più buona se riposa tutta la notte.
Con questo tempo preferisco restare a casa.
La maestra ha spiegato la regola un'altra volta, molto lentamente.
Cerchiamo un appartamento con tre camere e un balcone.
La nave è arrivata in porto dopo mezzanotte.
In bocca al lupo per l'esame!
Mio fratello suona il violino da quando era bambino.
In cucina c'è profumo di aglio e basilico.
Il medico gli ha consigliato di dormire di più.
Nonostante il freddo c'era molta gente in piazza.
Potrebbe ripetere un po' più forte?
Quest'inverno la neve è rimasta solo pochi giorni.
Non vedo l'ora di rivederti.
La biblioteca possiede più di centomila libri.
Quando è andata via la luce abbiamo acceso le candele.
Arriva sempre tardi e ha sempre una scusa.
Sul tetto ci sono tre uccelli neri.
Il computer nuovo è molto più veloce di quello vecchio.
Andiamo a piedi o prendiamo l'autobus?
La città fu fondata più di ottocento anni fa.
Oggi indossa il suo cappotto verde.
Nessuno sapeva da dove venisse quello strano rumore.
Il pranzo è in tavola.
L'azienda cerca con urgenza artigiani esperti.
In vacanza facevamo il bagno nel lago tutti i giorni.
"""

_DUTCH = """
Goedemorgen, heeft u goed geslapen?
De trein naar Utrecht heeft vandaag twintig minuten vertraging.
Mijn oma bakt elke zondag een appeltaart.
Het regent al sinds gisteravond zonder ophouden.
Waar is het dichtstbijzijnde station?
De kinderen spelen in de tuin achter het oude huis.
Ik heb mijn sleutels alweer op kantoor laten liggen.
Kun je mij het zout even aangeven?
Onderzoekers hebben een tot nu toe onbekende ster ontdekt.
Dit weekend willen we langs het strand gaan wandelen.
Het museum gaat om tien uur open en om zes uur dicht.
Zij leest de krant terwijl haar koffie koud wordt.
We moeten nog brood, melk en kaas kopen.
Hartelijk dank voor het snelle antwoord.
De hond slaapt het liefst voor de warme kachel.
Zijn zus studeert sinds twee jaar rechten in Leiden.
Het raam in de keuken gaat niet meer goed dicht.
In de herfst worden de bladeren van de bomen rood en geel.
Heb je gehoord dat de brug is afgesloten?
De bakker op de hoek verkoopt de lekkerste broodjes van de stad.
Ik begrijp helemaal niets van de laatste vraag.
Vroeger reed hier nog een kleine tram.
Na de wedstrijd was iedereen moe maar tevreden.
Zet uw telefoon tijdens de voorstelling alstublieft uit.
De rivier treedt bijna elk voorjaar buiten haar oevers.
Hij heeft een nieuwe fiets voor zijn verjaardag gekregen.
Hoeveel kost een kaartje voor de hele week?
Onze buurman is al uren bezig met zijn grasmaaier.
Morgenochtend kan het glad zijn op de wegen.
De rekening klopt niet, wij hebben alleen water besteld.
Het boek gaat over een jonge visser die zijn eiland verlaat.
Zonder bril kan ik dat bord daar niet lezen.
De directeur is tot donderdag op reis.
Tussen de twee huizen groeit een enorme kastanjeboom.
Waarom heb je mij gisteren niet gebeld?
De soep smaakt beter als ze een nacht heeft gestaan.
Met dit weer blijf ik liever thuis.
De lerares legde de regel nog een keer heel langzaam uit.
Wij zoeken een woning met drie kamers en een balkon.
Het schip kwam pas na middernacht in de haven aan.
Veel succes met je examen!
Mijn broer speelt al sinds zijn jeugd viool.
In de keuken ruikt het naar verse knoflook.
De dokter heeft hem aangeraden om meer te slapen.
Ondanks de kou stonden er veel mensen op het plein.
Zou u dat iets harder willen herhalen?
De sneeuw bleef deze winter maar een paar dagen liggen.
Ik kijk erg uit naar je bezoek.
De bibliotheek heeft meer dan honderdduizend boeken.
Toen de stroom uitviel, staken we kaarsen aan.
Hij komt altijd te laat en heeft altijd een smoes.
Er zitten drie zwarte vogels op het dak.
De nieuwe computer is veel sneller dan de oude.
Zullen we lopen of nemen we de bus?
De stad werd meer dan achthonderd jaar geleden gesticht.
Zij draagt vandaag haar groene jas.
Niemand wist waar het vreemde geluid vandaan kwam.
Het eten staat op tafel.
Het bedrijf zoekt dringend ervaren vakmensen.
Op vakantie zwommen we elke dag in het meer.
"""

_POLISH = """
Dzień dobry, jak się pani spało?
Pociąg do Krakowa jest dziś opóźniony o dwadzieścia minut.
Moja babcia piecze szarlotkę w każdą niedzielę.
Od wczorajszego wieczora pada deszcz.
Gdzie jest najbliższy dworzec?
Dzieci bawią się w ogrodzie za starym domem.
Znowu zostawiłem klucze w biurze.
Czy możesz mi podać sól?
Naukowcy odkryli nieznaną dotąd gwiazdę.
W weekend chcemy pójść na wycieczkę w góry.
Muzeum otwiera się o dziesiątej, a zamyka o szóstej.
Ona czyta gazetę, a kawa powoli stygnie.
Musimy jeszcze kupić chleb, mleko i ser.
Bardzo dziękuję za szybką odpowiedź.
Pies najchętniej śpi przed ciepłym piecem.
Jego siostra od dwóch lat studiuje prawo w Poznaniu.
Okno w kuchni nie chce się już domknąć.
Jesienią liście na drzewach robią się czerwone i żółte.
Słyszałeś, że most jest zamknięty?
Piekarnia na rogu sprzedaje najlepsze bułki w mieście.
Zupełnie nie rozumiem ostatniego zadania.
Dawniej jeździł tędy mały tramwaj.
Po meczu wszyscy byli zmęczeni, ale zadowoleni.
Proszę wyłączyć telefony na czas przedstawienia.
Rzeka wylewa prawie każdej wiosny.
Na urodziny dostał nowy rower.
Ile kosztuje bilet na cały tydzień?
Nasz sąsiad od kilku godzin naprawia kosiarkę.
Jutro rano na drogach może być ślisko.
Rachunek się nie zgadza, zamówiliśmy tylko szklankę wody.
Książka opowiada o młodym rybaku, który opuszcza swoją wyspę.
Bez okularów nie mogę przeczytać tego napisu.
Szef jest w delegacji do czwartku.
Między domami rośnie ogromny stary kasztan.
Dlaczego wczoraj do mnie nie zadzwoniłaś?
Zupa jest smaczniejsza, gdy postoi całą noc.
Przy takiej pogodzie wolę zostać w domu.
Nauczycielka jeszcze raz powoli wyjaśniła tę zasadę.
Szukamy mieszkania z trzema pokojami i balkonem.
Statek dopłynął do portu dopiero po północy.
Powodzenia na egzaminie!
Mój brat od dziecka gra na skrzypcach.
W kuchni pachnie świeżym czosnkiem.
Lekarz poradził mu, żeby więcej spał.
Mimo zimna na rynku stało mnóstwo ludzi.
Czy mogłaby pani powtórzyć trochę głośniej?
Tej zimy śnieg leżał tylko przez kilka dni.
Bardzo się cieszę na twój przyjazd.
Biblioteka ma ponad sto tysięcy książek.
Kiedy zgasło światło, zapaliliśmy świece.
Zawsze się spóźnia i zawsze ma jakąś wymówkę.
Na dachu siedzą trzy czarne ptaki.
Nowy komputer działa znacznie szybciej niż stary.
Idziemy pieszo czy jedziemy autobusem?
Miasto założono ponad osiemset lat temu.
Ona ma dzisiaj na sobie zielony płaszcz.
Nikt nie wiedział, skąd dochodzi ten dziwny dźwięk.
Obiad jest na stole.
Firma pilnie szuka doświadczonych spawaczy.
Na wakacjach codziennie kąpaliśmy się w jeziorze.
"""

_PORTUGUESE = """
Bom dia, a senhora dormiu bem?
O comboio para Coimbra está com vinte minutos de atraso.
A minha avó faz um bolo de maçã todos os domingos.
Está a chover desde ontem à noite.
Onde fica a estação mais próxima?
As crianças brincam no jardim atrás da casa velha.
Esqueci-me outra vez das chaves no escritório.
Pode passar-me o sal, por favor?
Os cientistas descobriram uma estrela até agora desconhecida.
No fim de semana queremos caminhar na serra.
O museu abre às dez e fecha às seis da tarde.
Ela lê o jornal enquanto o café arrefece.
Ainda temos de comprar pão, leite e queijo.
Muito obrigado pela resposta rápida.
O cão dorme sempre em frente à lareira.
A irmã dele estuda medicina no Porto há dois anos.
A janela da cozinha já não fecha bem.
No outono as folhas das árvores ficam vermelhas e amarelas.
Já ouviste dizer que a ponte está fechada?
A padaria da esquina vende os melhores pastéis da cidade.
Não percebo nada da última pergunta.
Antigamente passava por aqui um pequeno elétrico.
Depois do jogo estavam todos cansados, mas contentes.
Por favor, desliguem os telefones durante o espetáculo.
O rio transborda quase todas as primaveras.
Ele recebeu uma bicicleta nova no dia dos anos.
Quanto custa um bilhete para a semana inteira?
O nosso vizinho anda há horas a consertar a mota.
Amanhã de manhã vai haver nevoeiro nas estradas.
A conta não está certa, só pedimos um copo de água.
O livro conta a história de um jovem pescador dos Açores.
Sem óculos não consigo ler aquela placa.
O diretor está em viagem até quinta-feira.
Entre as duas casas cresce um castanheiro enorme.
Por que razão não me telefonaste ontem?
A sopa sabe melhor quando fica de um dia para o outro.
Com este tempo prefiro ficar em casa.
A professora explicou a regra mais uma vez, muito devagar.
Procuramos um apartamento com três quartos e varanda.
O navio só chegou ao porto depois da meia-noite.
Boa sorte para o exame!
O meu irmão toca violino desde criança.
Na cozinha cheira a alho e a coentros.
O médico aconselhou-o a dormir mais.
Apesar do frio, havia muita gente na praça.
Podia repetir um pouco mais alto?
Neste inverno a neve durou apenas alguns dias.
Estou ansioso pela tua visita.
A biblioteca tem mais de cem mil livros.
Quando faltou a luz, acendemos umas velas.
Ele chega sempre atrasado e tem sempre uma desculpa.
Estão três pássaros pretos no telhado.
O computador novo é muito mais rápido do que o antigo.
Vamos a pé ou apanhamos o autocarro?
A cidade foi fundada há mais de oitocentos anos.
Hoje ela traz vestido o casaco verde.
Ninguém sabia de onde vinha aquele barulho estranho.
O almoço está na mesa.
A empresa procura com urgência soldadores experientes.
Nas férias tomávamos banho no lago todos os dias.
"""

_SWEDISH = """
God morgon, har du sovit gott?
Tåget till Göteborg är tjugo minuter försenat i dag.
Min mormor bakar en äppelkaka varje söndag.
Det har regnat sedan i går kväll.
Var ligger närmaste station?
Barnen leker i trädgården bakom det gamla huset.
Jag har glömt mina nycklar på kontoret igen.
Kan du skicka mig saltet?
Forskarna har upptäckt en tidigare okänd stjärna.
I helgen vill vi vandra i fjällen.
Museet öppnar klockan tio och stänger klockan sex.
Hon läser tidningen medan kaffet kallnar.
Vi måste fortfarande köpa bröd, mjölk och ost.
Tack så mycket för det snabba svaret.
Hunden sover helst framför den varma kaminen.
Hans syster har läst juridik i Uppsala i två år.
Fönstret i köket går inte längre att stänga ordentligt.
På hösten blir löven på träden röda och gula.
Har du hört att bron är avstängd?
Bageriet på hörnet säljer stadens bästa bullar.
Jag förstår inte alls den sista uppgiften.
Förr i tiden gick det en liten spårvagn här.
Efter matchen var alla trötta men nöjda.
Stäng av era telefoner under föreställningen.
Älven svämmar över nästan varje vår.
Han fick en ny cykel när han fyllde år.
Hur mycket kostar en biljett för hela veckan?
Vår granne har lagat sin gräsklippare i flera timmar.
I morgon bitti blir det halt på vägarna.
Notan stämmer inte, vi beställde bara ett glas vatten.
Boken handlar om en ung fiskare som lämnar sin ö.
Utan glasögon kan jag inte läsa den där skylten.
Chefen är bortrest till på torsdag.
Mellan husen växer en väldig gammal kastanj.
Varför ringde du mig inte i går?
Soppan smakar bättre när den har stått över natten.
I det här vädret stannar jag hellre hemma.
Läraren förklarade regeln en gång till, mycket långsamt.
Vi söker en lägenhet med tre rum och balkong.
Fartyget nådde hamnen först efter midnatt.
Lycka till på provet!
Min bror har spelat fiol sedan han var liten.
I köket luktar det av färsk vitlök.
Läkaren rådde honom att sova mer.
Trots kylan stod det mycket folk på torget.
Skulle ni kunna upprepa det lite högre?
I vinter låg snön kvar bara några få dagar.
Jag ser verkligen fram emot ditt besök.
Biblioteket har över hundratusen böcker.
När strömmen gick tände vi stearinljus.
Han kommer alltid för sent och skyller alltid på något.
Det sitter tre svarta fåglar på taket.
Den nya datorn är mycket snabbare än den gamla.
Ska vi gå eller ta bussen?
Staden grundades för mer än åttahundra år sedan.
Hon har sin gröna kappa på sig i dag.
Ingen visste varifrån det konstiga ljudet kom.
Maten står på bordet.
Företaget letar efter erfarna hantverkare.
På semestern badade vi i sjön varje dag.
"""


def _sentences(text: str) -> tuple[str, ...]:
    """Split a block into its sentences, one per line."""
    return tuple(line for line in text.splitlines() if line)


SENTENCES: Mapping[str, tuple[str, ...]] = {
    "de": _sentences(_GERMAN),
    "en": _sentences(_ENGLISH),
    "es": _sentences(_SPANISH),
    "fi": _sentences(_FINNISH),
    "fr": _sentences(_FRENCH),
    "it": _sentences(_ITALIAN),
    "nl": _sentences(_DUTCH),
    "pl": _sentences(_POLISH),
    "pt": _sentences(_PORTUGUESE),
    "sv": _sentences(_SWEDISH),
}
"""Sentences by ISO 639-1 code, sixty each."""

LANGUAGES: tuple[str, ...] = tuple(SENTENCES)
"""The classes: the model's label `i` is `LANGUAGES[i]`."""


def _select(*, held: bool) -> list[tuple[str, int]]:
    """Pick one side of the split, as pairs of sentence and label."""
    return [
        (sentence, label)
        for label, language in enumerate(LANGUAGES)
        for i, sentence in enumerate(SENTENCES[language])
        if (i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1) == held
    ]


def training() -> list[tuple[str, int]]:
    """Return the sentences to train on, each with its label: three of four."""
    return _select(held=False)


def held_out() -> list[tuple[str, int]]:
    """Return the sentences that training never sees, each with its label: every fourth one."""
    return _select(held=True)


def encode(text: str) -> list[int]:
    """Turn text into the model's tokens: its UTF-8 bytes, each 0 to 255."""
    return list(text.encode("utf-8"))
